"""Who holds which of a trainer's weights, from the model that it is given to the files that it saves."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from torch import Tensor, nn

from ropo.lm.spreading import is_spread, spread, weights_of
from ropo.training.distributed.processes import by_the_first, rank
from ropo.training.distributed.sharding import (
    average_gradients,
    check_deepspeed,
    check_fsdp,
    check_sharding,
    keep_adapters_whole,
    load_weights,
    whole_adapter,
)


class Holders:
    """Say who holds a trainer's weights, and bring them there.

    A model is held whole by every process, or by the first one alone (`ropo.lm.spreading`), until training begins: then
    FSDP and ZeRO-3 cut it, and each process holds a part. An adapter stays whole on each under FSDP2.

    Args:
        trainer: Whose weights they are; it may be unfinished.
        model: The model that it is given, or its name.
        reference: The reference model that it is given, or None.

    Attributes:
        optimizer_groups: The groups of parameters that DeepSpeed makes into others; empty without it.
    """

    def __init__(self, trainer: Any, model: Any, reference: Any) -> None:
        self.trainer = trainer
        self.optimizer_groups: list[dict[str, Any]] = []
        self._first_alone = is_spread(model)
        self._reference = weights_of(reference) if is_spread(reference) else None
        self._averaged: list[nn.Parameter] = []

    @property
    def are_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed has the weights, or their gradients and the optimizer."""
        return bool(self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)

    @property
    def cut_base(self) -> bool:
        """Whether FSDP or ZeRO-3 cuts the model when training begins."""
        plugin: Any = self.trainer.args.deepspeed_plugin
        return self.trainer.is_fsdp_enabled or (self.trainer.is_deepspeed_enabled and plugin.zero_stage == 3)

    @property
    def cut_trained(self) -> bool:
        """Whether no process has all of what is trained: under ZeRO-3, and without an adapter under FSDP2."""
        return self.cut_base and not (self.trainer.is_fsdp_enabled and self._adapted)

    @property
    def _adapted(self) -> bool:
        return is_peft_model(self.trainer.model)

    def check(self) -> None:
        """Refuse what the accelerator shards in a way that changes training."""
        trainer = self.trainer
        if trainer.is_fsdp_enabled:
            check_fsdp(trainer.accelerator)
        check_sharding(trainer.args, trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled)

    def find_out(self, look: Callable[[], Any]) -> Any:
        """Look at the model; where the first process alone has its weights, there, for all."""
        return by_the_first(look) if self._first_alone else look()

    def hand_out(self) -> None:
        """Give every process what nobody is going to cut, and the adapter that FSDP is to leave whole.

        Raises:
            UserError: If DeepSpeed would lose what is trained.
        """
        trainer = self.trainer
        if self._reference is not None:
            spread(trainer.accelerator.unwrap_model(trainer.ref_model), self._reference)
            self._reference = None
        if self._first_alone and not self.cut_base:
            spread(trainer.model, {})
            self._first_alone = False
        if trainer.is_fsdp_enabled:
            self._averaged = keep_adapters_whole(trainer.model, trainer.accelerator)
        if trainer.is_deepspeed_enabled:
            check_deepspeed(trainer.model, trainer.args)

    def load(self, checkpoint: Path) -> None:
        """Read a checkpoint into the model before it is cut; of its trained base in the process that has it."""
        if self.are_sharded and (self._adapted or not self._first_alone or not rank()):
            load_weights(self.trainer.model, checkpoint)

    @contextmanager
    def cutting(self) -> Iterator[None]:
        """Give every process its part of what the first one has, after the model is cut in this context."""
        trainer = self.trainer
        weights = weights_of(trainer.model) if self._first_alone else {}
        yield
        if self._first_alone:
            spread(trainer.accelerator.unwrap_model(trainer.model), weights)
            self._first_alone = False

    def remember_groups(self, optimizer: Any) -> None:
        """Remember the parameters of an optimizer that was just made."""
        if self.trainer.is_deepspeed_enabled:
            groups = getattr(optimizer, "param_groups", None) or [{"params": list(optimizer.params)}]
            self.optimizer_groups = [dict(group) for group in groups]

    def average_gradients(self) -> None:
        """Average the gradients of what FSDP has left whole, once a step."""
        average_gradients(self._averaged)

    def gathered(self) -> dict[str, Tensor] | None:
        """Return the weights to save, which all processes gather; None where transformers finds them by itself."""
        trainer = self.trainer
        if self.are_sharded and self._adapted:
            return whole_adapter(trainer.accelerator.unwrap_model(trainer.model))
        # transformers saves nothing unless FSDP's plugin says FULL_STATE_DICT, and says nothing
        return trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
