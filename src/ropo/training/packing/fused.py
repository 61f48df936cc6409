"""Run a causal language model on packs where its caller sees a padded batch.

TRL computes log-probs by `model(input_ids, attention_mask, labels=labels, fused_lm_head=True)`, for the policy and the
reference alike. Given `packs=` as well, a model prepared here computes the packs, lets TRL's own fused LM head score
their answer tokens only, and puts every score where the padded batch would have had it.
"""

from __future__ import annotations

__all__ = ()

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from ropo.lm.adapters import evaluating
from ropo.lm.packing.attention import no_mask
from ropo.lm.packing.layout import Pack, pack_batch
from ropo.lm.packing.model import architecture_reason, difference, take_packs, trial_batch
from ropo.training.packing.tiles import fitting_tiles

TOKEN_FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def enable_packing(
    model: PreTrainedModel,
    arithmetic: torch.dtype | None = None,
    find_out: Callable[[Callable[[], Any]], Any] = lambda look: look(),
) -> str | None:
    """Let a model that has TRL's fused LM head take packs.

    Args:
        model: The base model, without PEFT's wrapper; changed in place.
        arithmetic: What it computes in where that is not its weights' dtype, as under autocast.
        find_out: What runs it; where one of several processes has its weights, that one alone, which tells the others.

    Returns:
        None, or the reason why this model cannot be packed; it is then left as it was.

    Cost: two forward passes over a dozen tokens, which compare the packed scores with the padded ones.
    """
    reason = architecture_reason(model)
    if reason is not None:
        return reason
    forward, trial = model.forward, trial_batch(model)
    padded = find_out(lambda: trial_log_probs(model, trial))
    undo = take_packs_of_batches(model)

    def packed() -> Float[Tensor, "2 6"]:
        return trial_log_probs(model, trial, packs=pack_batch(*trial))

    reason = find_out(lambda: difference(packed, padded, arithmetic or model.dtype))
    if reason is not None:
        model.forward = forward
        undo()
    return reason


def take_packs_of_batches(model: Any, device: str | None = None) -> Callable[[], None]:
    """Let a model that has TRL's fused LM head take the packs of a padded batch beside it; see `take_packs`.

    Args:
        model: The base model; changed in place.
        device: The type of the device whose tiles the head shall use; None for that of each pack.
    """
    forward = model.forward
    undo = take_packs(model)
    model.forward = types.MethodType(_packed_forward(forward, type(model).forward, device), model)
    return undo


def _packed_forward(fused_forward: Any, original_forward: Any, device: str | None) -> Any:
    """Wrap the forward that `trl.trainer.utils.add_fused_lm_head` made."""

    @functools.wraps(original_forward)  # `generate` reads the signature to know which inputs the model takes
    def forward(
        self: PreTrainedModel,
        *args: Any,
        packs: tuple[Pack, ...] = (),
        fused_lm_head: bool = False,
        labels: Int[Tensor, "rows width"] | None = None,
        **kwargs: Any,
    ) -> Any:
        if not packs or not fused_lm_head or labels is None:
            return fused_forward(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)

        def score(pack: Pack) -> FusedCausalLMOutput:
            with fitting_tiles(device or pack.input_ids.device.type, len(pack.cells)):
                return fused_forward(
                    input_ids=pack.input_ids,
                    position_ids=pack.position_ids,
                    attention_mask=no_mask(pack.input_ids.device),
                    pack=pack,
                    shift_labels=pack.targets,
                    fused_lm_head=True,
                )

        if len(packs) == 1 or not torch.is_grad_enabled():
            outputs = [score(pack) for pack in packs]
        else:  # only one pack's activations at a time: that is what the token budget is for
            outputs = [checkpoint(score, pack, use_reentrant=False) for pack in packs]
        return _scatter(outputs, packs, labels)

    return forward


def _scatter(
    outputs: list[FusedCausalLMOutput], packs: tuple[Pack, ...], labels: Int[Tensor, "rows width"]
) -> FusedCausalLMOutput:
    """Put the scores of packs into the (rows, width - 1) grid of the padded batch; zero where nothing is scored."""
    rows, width = labels.shape
    cells = torch.cat([pack.cells for pack in packs])

    def grid(name: str) -> Tensor:
        values = torch.cat([output[name][0] for output in outputs])
        return values.new_zeros(rows * (width - 1)).scatter(0, cells, values).view(rows, width - 1)

    return FusedCausalLMOutput(**{name: grid(name) for name in TOKEN_FIELDS if name in outputs[0]})


def trial_log_probs(model: nn.Module, trial: tuple[Tensor, Tensor, Tensor], **given: Any) -> Float[Tensor, "2 6"]:
    """Return the log-probs of `trial_batch`, with what a prepared model is given beside it."""
    input_ids, attention_mask, completion_mask = trial
    labels = input_ids.masked_fill(completion_mask == 0, -100)
    with torch.no_grad(), evaluating(model):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return model(**inputs, labels=labels, fused_lm_head=True, **given).log_probs
