"""How much memory a training step will take, before any weight is loaded.

A step (policy, reference, backward pass) runs on the meta device, where tensors have shapes but no numbers, while the
bytes of every tensor are counted from its making to its end. What the kernels of a real device keep and spare is put in
by hand: attention that keeps no scores, and the LM head's tiles.
"""

from __future__ import annotations

__all__ = ["ROOM", "Lengths", "Memory", "estimate", "tighter", "trained_parameters"]

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from trl.trainer.utils import add_fused_lm_head

from ropo.core.errors import UserError
from ropo.lm.packing import layout
from ropo.lm.packing.layout import Pack, build_pack, split_by_budget
from ropo.lm.packing.model import architecture_reason
from ropo.lm.tokens import Limits
from ropo.training.meta_device import HEAD, PASS, LiveBytes, as_on_device
from ropo.training.packing.fused import take_packs_of_batches

ROOM = 0.85
"""Share of the free memory that a step may take.

An estimate is good to 15 %; beside a measured step, batches of other lengths leave as much in pieces.
"""
_META = torch.device("meta")

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
    if reason := architecture_reason(model):  # `enable_packing` compares numbers, and there are none
        raise UserError(f"plan: {type(model).__name__} cannot be packed, {reason}; there is no estimate for it")
    take_packs_of_batches(model, device)
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
    live = LiveBytes(policy)
    with as_on_device(device, live):
        _step(policy, packs, len(pairs), live)
    at_peak = live.at_peak([each.grad for each in trained if each.grad is not None])
    in_float32 = 4 * size
    return Memory(
        weights=weights * (2 if reference else 1),
        adapter=0 if adapter is None else in_float32,
        optimizer=2 * in_float32,
        gradients=at_peak["gradients"],
        activations=at_peak[PASS] + dequantised + cached,
        head=at_peak[HEAD],
    )


def tighter(checkpointing: bool, budget: int | None, tokens: int, longest: int) -> tuple[bool, int | None] | None:
    """Return the next settings that need less memory: checkpointing, then half the tokens at once; None for none.

    Args:
        checkpointing: Whether activations are computed again.
        budget: `tokens_per_step`.
        tokens: What is computed at once without a budget.
        longest: Tokens of the longest pair, below which no budget goes: the pair would be left out.
    """
    if not checkpointing:
        return True, budget
    budget = tokens if budget is None else budget
    return None if budget <= longest else (True, max(longest, budget // 2))


def trained_parameters(model: Any, adapter: PeftConfig | None) -> int:
    """Count what would be trained; the model, on the meta device, is used up."""
    policy = model if adapter is None else get_peft_model(model, adapter)
    return sum(each.numel() for each in policy.parameters() if each.requires_grad)


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


def _step(policy: Any, packs: tuple[Pack, ...], pairs: int, live: LiveBytes) -> None:
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
