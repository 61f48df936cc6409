"""How many bytes of tensors are alive, and what they are, at the peak of a computation."""

from __future__ import annotations

__all__ = ()

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

HEAD, PASS = "head", "activations"


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that are alive, and remember what they were when they were most.

    Args:
        model: Whose parameters and buffers are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stage = PASS
        # held, so that no other storage gets the address of one that an adapter lets go
        self._held = [each.untyped_storage() for each in (*model.parameters(), *model.buffers())]
        self._known = {storage._cdata for storage in self._held}
        self._sizes: list[tuple[int, str]] = []  # of every storage there ever was, by its number
        self._numbers: dict[int, int] = {}  # of those that are alive, by their address, which is given out again
        self._events: list[int] = []  # a storage's number where it came, its complement where it went
        self._total = self._peak = self._peak_event = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known or address in self._numbers:
            return
        self._numbers[address] = len(self._sizes)
        self._events.append(len(self._sizes))
        self._sizes.append((storage.nbytes(), self.stage))
        self._total += storage.nbytes()
        weakref.finalize(storage, self._forget, address)
        if self._total > self._peak:
            self._peak, self._peak_event = self._total, len(self._events)

    def _forget(self, address: int) -> None:
        number = self._numbers.pop(address)
        self._events.append(~number)
        self._total -= self._sizes[number][0]

    def at_peak(self, gradients: list[Tensor]) -> dict[str, int]:
        """Return the bytes at the peak by what they were."""
        alive: set[int] = set()
        for event in self._events[: self._peak_event]:
            alive.add(event) if event >= 0 else alive.remove(~event)
        kept = {self._numbers[each.untyped_storage()._cdata] for each in gradients}
        found = {PASS: 0, HEAD: 0, "gradients": 0}
        for number in alive:
            size, stage = self._sizes[number]
            found["gradients" if number in kept else stage] += size
        return found
