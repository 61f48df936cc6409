"""Try the largest step before the first one is taken, and fit gradient checkpointing and packs to what it took."""

from __future__ import annotations

__all__ = ["GpuMemory", "TrialStep"]

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ropo.core.errors import UserError
from ropo.training.distributed.dealing import packed_tokens
from ropo.training.memory import ROOM, tighter
from ropo.training.packing.packer import without_numbers
from ropo.training.remedies.scores import summed_log_probs


class GpuMemory:
    """Measure the memory of the current GPU, in bytes, as PyTorch's allocator sees it."""

    def free(self) -> int:
        """Return what the device has left, and what PyTorch holds and does not use."""
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def peak(self, action: Callable[[], object]) -> int:
        """Return the most that an action takes on top of what is there; waits for the device."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class TrialStep(TrainerCallback):
    """Compute the gradients of the longest pairs before training begins, and choose settings by what that took.

    Where it does not fit, gradient checkpointing comes first, and then half the tokens in a pack, as often as needed.
    Where a budget of tokens was set and there is room, the budget is widened: what a pass keeps grows with the
    tokens of its pack, so

        tokens_per_step = tokens of the tried pack * room / peak.

    Nothing else changes: gradients are thrown away, and random numbers are drawn as if there had been no trial.

    Args:
        trainer: A `ropo.PreferenceTrainer` whose batches are packed.
        meter: What measures the device.
        say: What tells the user.

    Cost: one step without an update, and one more for each setting that does not fit.
    """

    def __init__(self, trainer: Any, meter: GpuMemory, say: Callable[[str], None]) -> None:
        self.trainer, self.meter, self.say = trainer, meter, say
        self.found: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Try, until a step fits.

        Raises:
            UserError: If the longest pair alone does not fit with checkpointing.
        """
        lengths = packed_tokens(self.trainer.train_dataset, args.limits)  # type: ignore[attr-defined]
        longest = sorted(range(len(lengths)), key=lengths.__getitem__)[-self.trainer.args.train_batch_size :]
        rows = [self.trainer.train_dataset[number] for number in longest]
        free = self.meter.free()
        room = ROOM * free - self._moments()
        peak, tokens = self._try(rows)
        while peak is None or peak > room:
            if not self._tighten(tokens, max(lengths)):
                break
            peak, tokens = self._try(rows)
        if peak is None:
            raise UserError(
                f"train data: the gradients of {tokens:,} tokens, the fewest at once that the pairs allow, take "
                f"more than the {free / 1e9:.1f} GB that are free; lower --max_length, or give --load_in_4bit"
            )
        total = sum(lengths[number] for number in longest)
        budget = args.tokens_per_step  # type: ignore[attr-defined]
        if budget is not None and peak <= room:
            wider = int(tokens * room / peak)
            self._set_budget(None if wider >= total else max(budget, wider))
        self._tell(peak, free, tokens)

    def _try(self, rows: list[dict[str, Any]]) -> tuple[int | None, int]:
        """Return the peak of a step on these pairs, None where it does not fit, and the tokens of its largest pack."""
        trainer = self.trainer
        inputs = without_numbers(trainer._prepare_inputs(trainer.data_collator(rows)))

        def step() -> None:
            with trainer.compute_loss_context_manager():
                log_probs = summed_log_probs(trainer.model_wrapped, inputs)
            trainer.accelerator.backward(-log_probs.diff(dim=1).mean())

        devices = range(torch.cuda.device_count())
        try:
            with torch.random.fork_rng(devices):
                peak: int | None = self.meter.peak(step)
        except torch.OutOfMemoryError:
            peak = None
        trainer.model.zero_grad(set_to_none=True)
        if peak is None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return peak, max(pack.tokens for pack in inputs["packs"])

    def _tighten(self, tokens: int, longest: int) -> bool:
        """Take the next setting that needs less memory, or say that there is none."""
        args, model = self.trainer.args, self.trainer.model
        following = tighter(args.gradient_checkpointing, args.tokens_per_step, tokens, longest)
        if following is None:
            return False
        if not args.gradient_checkpointing:
            args.gradient_checkpointing = True
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
            if is_peft_model(model):
                model.enable_input_require_grads()
        self._set_budget(following[1])  # pairs of one prompt stay together, whatever it is
        return True

    def _set_budget(self, budget: int | None) -> None:
        self.trainer.args.tokens_per_step = self.trainer.data_collator.budget = budget

    def _moments(self) -> int:
        """Return the bytes of Adam's two moments where the first step has yet to make them."""
        if self.trainer.optimizer is not None and self.trainer.optimizer.state:
            return 0
        return sum(8 * each.numel() for each in self.trainer.model.parameters() if each.requires_grad)

    def _tell(self, peak: int, free: int, tokens: int) -> None:
        args = self.trainer.args
        self.found = {
            "peak_bytes": peak,
            "free_bytes": free,
            "tokens": tokens,
            "gradient_checkpointing": args.gradient_checkpointing,
            "tokens_per_step": args.tokens_per_step,
        }
        flags = " --gradient_checkpointing" * args.gradient_checkpointing
        flags += "" if args.tokens_per_step is None else f" --tokens_per_step {args.tokens_per_step}"
        self.say(
            f"a step on the longest pairs, {tokens:,} tokens at once, took {peak / 1e9:.1f} of {free / 1e9:.1f} GB "
            f"that are free{', so' if flags else ''}{flags}"
        )
