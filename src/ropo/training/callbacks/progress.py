"""Progress of a training run: one line a log, and a bar below them on a terminal."""

from __future__ import annotations

__all__ = ["Progress"]

import time
from collections.abc import Callable, Mapping, Sized
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ropo.core.progress import lines_of_progress, progress_bar


def progress_line(logs: Mapping[str, float], step: int, steps: int, seconds_left: float) -> str:
    """Write what a user watches while training as one line.

    Args:
        logs: What the trainer logged, by TRL's names.
        step: Optimizer steps done.
        steps: Optimizer steps in all.
        seconds_left: Expected time to the end.

    Returns:
        Loss, accuracy (share of pairs whose chosen answer gained more than the rejected one), margin (its mean gain
        times beta), mean log-probs of chosen and rejected answers, tokens per second and time left. Both log-probs are
        there because a growing margin can hide that both fall.
    """
    parts = [f"step {step:>{len(str(steps))}}/{steps}", f"loss {logs['loss']:.4f}"]
    if "rewards/margins" in logs:
        parts += [f"accuracy {logs['rewards/accuracies']:.2f}", f"margin {logs['rewards/margins']:+.3f}"]
        parts += [f"chosen {logs['logps/chosen']:.1f}", f"rejected {logs['logps/rejected']:.1f}"]
    if "unique_tokens_per_second" in logs:
        parts.append(f"{logs['unique_tokens_per_second']:.0f} tokens/s")
    parts.append(f"{timedelta(seconds=round(seconds_left))} left")
    return "  ".join(parts)


def monitor_line(logs: Mapping[str, float], step: int) -> str:
    """Write what `HackingMonitor` measured as one line: changes against the reference, log-probs in nats per token."""
    measured = {name.removeprefix("hacking/"): value for name, value in logs.items()}
    parts = [
        f"step {step}: chosen {measured['chosen_change_per_token']:+.3f}",
        f"rejected {measured['rejected_change_per_token']:+.3f} nats/token",
        f"length x{measured['length_ratio']:.2f}",
        f"repetition {measured['repetition_rise']:+.2f}",
        f"energy {measured['energy_change']:+.1e}",
        f"largest cosine change {measured['largest_cosine_change']:.1e}",
    ]
    if "kl_per_token" in measured:
        interval = [measured[name] for name in ("kl_per_token_low", "kl_per_token_high") if name in measured]
        between = " ({:.3g} to {:.3g})".format(*interval) if interval else ""
        parts.append(f"KL {measured['kl_per_token']:.3g}{between} nats/token")
    if "text_loss_rise" in measured:
        parts.append(f"text loss {measured['text_loss_rise']:+.3f}")
    return "monitor   " + ", ".join(parts)


class Progress(TrainerCallback):
    """Show progress; a context manager, so that the terminal is restored whatever ends the run."""

    def __init__(self, console: Console) -> None:
        """Draw on this console."""
        self.console = console
        self.bar = progress_bar(console, transient=True)
        self.task = self.bar.add_task("training")
        self.started = self.first_step = 0.0
        self._advance: Callable[[int], None] | None = None

    def __enter__(self) -> Progress:
        """Return the callback; the bar appears when training starts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self.bar.live.is_started:
            self.bar.stop()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and, on a terminal, the bar."""
        self.started, self.first_step = time.monotonic(), state.global_step
        if self.console.is_terminal:
            self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=state.global_step)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Sized | None = None,
        **kwargs: Any,
    ) -> None:
        """Say how far the held-out pairs are, which take minutes before the first step and after the last."""
        if self._advance is None and eval_dataloader is not None:
            say = partial(self.console.print, highlight=False, soft_wrap=True)
            self._advance = lines_of_progress("held-out  batches of pairs", len(eval_dataloader), say)
        if self._advance is not None:
            self._advance(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin anew with the next pass over the held-out pairs."""
        self._advance = None

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # type: ignore[override]
        """Begin anew with the next pass over the held-out pairs."""
        self._advance = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print a line."""
        if logs and "hacking/margin" in logs:
            self.bar.console.print(monitor_line(logs, state.global_step), highlight=False, soft_wrap=True)
        if not logs or "loss" not in logs:
            return
        done = state.global_step - self.first_step
        left = (time.monotonic() - self.started) / max(done, 1) * (state.max_steps - state.global_step)
        line = progress_line(logs, state.global_step, state.max_steps, left)
        self.bar.console.print(line, highlight=False, soft_wrap=True)
