"""A computation on the meta device: what attention and LM head keep as on a real device, and how much is alive."""

from __future__ import annotations

__all__ = ()

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface
from trl.kernels import chunked_logprob

from ropo.lm.packing.attention import PACKED, packed_attention

HEAD, PASS = "head", "activations"


class LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors that are alive, those of a model aside, and remember what they were at the peak."""

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


@contextlib.contextmanager
def as_on_device(device: str, live: LiveBytes) -> Iterator[None]:
    """Let attention and LM head keep and spare what they do on the device."""
    names = ("_forward_tile", "_backward_tile", "_addmm_fp32")
    tiles = {name: getattr(chunked_logprob, name) for name in names}
    function = chunked_logprob.ChunkedLogProbFunction
    passes = {name: getattr(function, name) for name in ("forward", "backward")}

    def in_head(call: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            stage, live.stage = live.stage, HEAD
            try:
                return call(*args, **kwargs)
            finally:
                live.stage = stage

        return marked

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if device == "cuda":  # the kernel takes each segment's keys in one row
            index = kwargs["pack"].gathered_keys.index
            key, value = (each.index_select(2, index) for each in (key, value))
        return _Attention.apply(query, key, value), None

    try:
        AttentionInterface.register(PACKED, attention)
        if device == "cuda":  # Triton folds a tile without another one beside it
            for name in names:
                setattr(chunked_logprob, name, lambda *args, **kwargs: None)
        for name, call in passes.items():
            setattr(function, name, staticmethod(in_head(call)))
        with _meta_without_autocast():
            yield
    finally:
        AttentionInterface.register(PACKED, packed_attention)
        for name, call in tiles.items():
            setattr(chunked_logprob, name, call)
        for name, call in passes.items():
            setattr(function, name, staticmethod(call))


@contextlib.contextmanager
def _meta_without_autocast() -> Iterator[None]:
    """Let autocast be off on the meta device, of which it knows nothing, rather than an error."""
    manager, enabled = torch.autocast, torch.is_autocast_enabled

    def manager_or_none(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else manager(device_type, *args, **kwargs)

    def enabled_or_not(device_type: str | None = None) -> bool:
        return device_type != "meta" and (enabled() if device_type is None else enabled(device_type))

    torch.autocast, torch.is_autocast_enabled = manager_or_none, enabled_or_not  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        torch.autocast, torch.is_autocast_enabled = manager, enabled  # type: ignore[misc]


class _Attention(torch.autograd.Function):
    """Keep what FlashAttention keeps: its arguments, its result, and one number per token and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        _, heads, tokens, _ = query.shape
        output = query.new_empty(1, tokens, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(heads, tokens, dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
