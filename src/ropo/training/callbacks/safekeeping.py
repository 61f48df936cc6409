"""Save a run every so often, and save and end it when it is asked to stop."""

from __future__ import annotations

__all__ = ["Safekeeping"]

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ropo.training.distributed.processes import largest_of_all

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTHING, _SAVE, _STOP = 0, 1, 2


class Safekeeping(TrainerCallback):
    """Save when the last checkpoint is `every` seconds old, and on SIGTERM or Ctrl-C finish the step, save and stop.

    A context manager: the signals are caught inside it only. A second Ctrl-C interrupts at once.

    Args:
        every: Seconds between two checkpoints; None for none but the last.
        say: What tells the user that the signal was heard.

    Cost: with several processes one number is agreed on at every step.
    """

    def __init__(self, every: float | None, say: Callable[[str], None] = print) -> None:
        self.every, self.say = every, say
        self.heard: signal.Signals | None = None
        self.stopped = False
        self.saved = time.monotonic()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Safekeeping:
        """Listen for the signals."""
        self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def heard_name(self) -> str:
        """The signal's name; another process may have been the one that heard it."""
        return "a signal" if self.heard is None else self.heard.name

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.heard is None:
            self.say(f"{signal.Signals(number).name}: finishing this step and saving")
        self.heard = signal.Signals(number)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.saved = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clock afresh."""
        self.saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save, and stop, where it is time."""
        due = self.every is not None and time.monotonic() - self.saved >= self.every
        # a signal may reach one of the processes first, and clocks differ
        wish = largest_of_all(_STOP if self.heard else _SAVE if due else _NOTHING, args)
        control.should_save |= wish != _NOTHING
        if wish == _STOP:
            self.stopped = control.should_training_stop = True
