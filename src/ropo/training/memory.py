"""How much memory a training step will take, before any weight is loaded.

A step (policy, reference, backward pass) runs on the meta device, where tensors have shapes but no numbers, while the
bytes of every tensor are counted from its making to its end. What the kernels of a real device keep and spare is put in
by hand: attention that keeps no scores, and the LM head's tiles.
"""

from __future__ import annotations

__all__ = ["Lengths", "Memory", "estimate", "trained_parameters"]

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface
from trl.kernels import chunked_logprob
from trl.trainer import utils as head_utils
from trl.trainer.utils import add_fused_lm_head

from ropo.core.errors import UserError
from ropo.lm.tokens import Limits
from ropo.training.packing import layout
from ropo.training.packing.attention import PACKED, packed_attention
from ropo.training.packing.layout import Pack, build_pack, split_by_budget
from ropo.training.packing.model import _architecture_reason, _keep_scored, _packed_forward

_META = torch.device("meta")
_HEAD, _PASS = "head", "activations"

# bytes a weight: 4 bits and a float32 for every 64 of them; 8 bits (a float32 a row is next to nothing)
_QUANTISED_BYTES = {4: 0.5 + 4 / 64, 8: 1.0}


@dataclass(frozen=True)
class Memory:
    """What is in memory at the peak of a training step, in bytes.

    Args:
        weights: The model's, and the reference's where that is a model of its own.
        adapter: Trained weights beside them.
        optimizer: Adam's two moments of what is trained.
        gradients: Those that exist at the peak.
        activations: What the backward pass needs, and what is being computed.
        head: The LM head's tiles, where the peak lies there.
    """

    weights: int
    adapter: int
    optimizer: int
    gradients: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.adapter + self.optimizer + self.gradients + self.activations + self.head


@dataclass(frozen=True)
class Lengths:
    """Tokens of a pair: its prompt, and its two answers."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def packed(self) -> int:
        """Tokens that the pair takes in a pack."""
        return Limits().packed_tokens(self.prompt, self.chosen, self.rejected)


def estimate(
    model: Any,
    adapter: PeftConfig | None,
    pairs: Sequence[Lengths],
    device: str,
    compute: torch.dtype,
    checkpointing: bool = False,
    budget: int | None = None,
    bits: int | None = None,
    reference: bool = False,
) -> Memory:
    """Estimate the peak of a training step on a batch of pairs.

    Args:
        model: The base model on the meta device, without adapter; used up.
        adapter: The adapter that is trained; None for every weight.
        pairs: The lengths of the batch's pairs.
        device: `cuda` or `cpu`: their kernels keep different things.
        compute: What products are computed in.
        checkpointing: Whether activations are computed again.
        budget: `tokens_per_step`.
        bits: 4 or 8 where linear layers are quantised.
        reference: Whether a frozen copy of the model is held beside it.

    Raises:
        UserError: If the model cannot be packed.

    Cost: about a millisecond for each operation of the step; some seconds for 32 layers.
    """
    weights, dequantised = _weight_bytes(model, bits)
    for parameter in model.parameters():
        parameter.requires_grad_(adapter is None)
    cached = 0  # autocast keeps its copies of trained weights to the end of the forward pass
    if adapter is None and compute != model.dtype:
        cached = sum(each.numel() for each in model.parameters()) * compute.itemsize
    model.to(compute)  # what autocast computes in; weights were counted as they are stored
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    _take_packs(model)
    policy = model if adapter is None else get_peft_model(model, adapter)
    trained = [each for each in policy.parameters() if each.requires_grad]
    size = sum(each.numel() for each in trained)
    for each in trained:
        each.data = each.data.to(compute)  # autocast's copies; RoPO widens its own again
    policy.train()
    if checkpointing:
        if adapter is not None:
            policy.enable_input_require_grads()
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    packs = tuple(build_pack(run, _META) for run in split_by_budget(_groups(pairs), budget))
    live = _LiveBytes(policy)
    with _as_on(device, live, model.config.vocab_size):
        _step(policy, packs, len(pairs), live)
    at_peak = live.at_peak([each.grad for each in trained if each.grad is not None])
    in_float32 = 4 * size
    return Memory(
        weights=weights * (2 if reference else 1),
        adapter=0 if adapter is None else in_float32,
        optimizer=2 * in_float32,
        gradients=at_peak["gradients"],
        activations=at_peak[_PASS] + dequantised + cached,
        head=at_peak[_HEAD],
    )


def trained_parameters(model: Any, adapter: PeftConfig | None) -> int:
    """Count what would be trained; the model, on the meta device, is used up."""
    policy = model if adapter is None else get_peft_model(model, adapter)
    return sum(each.numel() for each in policy.parameters() if each.requires_grad)


def _take_packs(model: Any) -> None:
    """Let the model take packs, as `enable_packing` does, which compares numbers that there are not."""
    if reason := _architecture_reason(model):
        raise UserError(f"plan: {type(model).__name__} cannot be packed, {reason}; there is no estimate for it")
    model.set_attn_implementation(PACKED)
    model.base_model.register_forward_hook(_keep_scored, with_kwargs=True)
    model.forward = types.MethodType(_packed_forward(model.forward, type(model).forward), model)


def _weight_bytes(model: nn.Module, bits: int | None) -> tuple[int, int]:
    """Return the bytes of the weights, and of one layer's while it is written out in full for a product."""
    total = sum(each.numel() * each.itemsize for each in {*model.parameters(), *model.buffers()})
    if bits is None:
        return total, 0
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    layers = [each for each in model.modules() if isinstance(each, nn.Linear) and each is not head]
    plain = sum(layer.weight.numel() * layer.weight.itemsize for layer in layers)
    quantised = sum(layer.weight.numel() for layer in layers) * _QUANTISED_BYTES[bits]
    widest = max(layer.weight.numel() * layer.weight.itemsize for layer in layers)
    return int(total - plain + quantised), widest


def _groups(pairs: Sequence[Lengths]) -> list[list[layout.Sequence]]:
    """Make sequences of these lengths; which tokens they hold makes no difference."""
    groups, cell = [], 0
    for pair in pairs:
        group = []
        for answer in (pair.chosen, pair.rejected):
            group.append(
                layout.Sequence([0] * (pair.prompt + answer), 0, pair.prompt, list(range(cell, cell + answer)))
            )
            cell += answer
        groups.append(group)
    return groups


def _step(policy: Any, packs: tuple[Pack, ...], pairs: int, live: _LiveBytes) -> None:
    """Take the passes of one step in the order of TRL's trainer."""
    answers = sum(len(pack.cells) for pack in packs)
    # the padded grid is next to nothing; one wide enough for every cell stands for it
    labels = torch.zeros(2 * pairs, answers // (2 * pairs) + 2, dtype=torch.long, device=_META)
    inputs = {"input_ids": labels, "attention_mask": labels, "labels": labels, "packs": packs, "fused_lm_head": True}
    with live:
        log_probs = policy(**inputs).log_probs.sum(dim=1)
        without = policy.disable_adapter() if isinstance(policy, PeftModel) else contextlib.nullcontext()
        with torch.no_grad(), without:
            reference = policy(**inputs).log_probs.sum(dim=1)
        loss = -torch.nn.functional.logsigmoid((log_probs - reference).view(2, -1).diff(dim=0)).mean()
        loss.backward()


class _LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that are alive, and remember what they were when they were most.

    Args:
        model: Whose parameters and buffers are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stage = _PASS
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
        found = {_PASS: 0, _HEAD: 0, "gradients": 0}
        for number in alive:
            size, stage = self._sizes[number]
            found["gradients" if number in kept else stage] += size
        return found


@contextlib.contextmanager
def _as_on(device: str, live: _LiveBytes, vocabulary: int) -> Iterator[None]:
    """Let attention and LM head keep and spare what they do on the device."""
    tile_width = head_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    names = ("_forward_tile", "_backward_tile", "_addmm_fp32")
    tiles = {name: getattr(chunked_logprob, name) for name in names}
    function = chunked_logprob.ChunkedLogProbFunction
    passes = {name: getattr(function, name) for name in ("forward", "backward")}

    def in_head(call: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            stage, live.stage = live.stage, _HEAD
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
        if device == "cpu":  # the columns of a tile that no word falls into take no pages
            setattr(head_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", min(tile_width, vocabulary))  # noqa: B010
        if device == "cuda":  # Triton folds a tile without another one beside it
            for name in names:
                setattr(chunked_logprob, name, lambda *args, **kwargs: None)
        for name, call in passes.items():
            setattr(function, name, staticmethod(in_head(call)))
        with _meta_without_autocast():
            yield
    finally:
        AttentionInterface.register(PACKED, packed_attention)
        setattr(head_utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", tile_width)  # noqa: B010
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
    """Keep what FlashAttention keeps: its arguments, its result, and one number a token and head."""

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
