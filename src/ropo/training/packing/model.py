"""Run a causal language model on packs where its caller sees a padded batch.

TRL computes log-probs by `model(input_ids, attention_mask, labels=labels, fused_lm_head=True)`, for the policy and the
reference alike. Given `packs=` as well, a model prepared here computes the packs, lets TRL's own fused LM head score
their answer tokens only, and puts every score where the padded batch would have had it.
"""

from __future__ import annotations

__all__ = ()

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from ropo.training.packing.attention import PACKED, CannotPackError, no_mask
from ropo.training.packing.layout import Pack, pack_batch

_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
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
    attention, forward = model.config._attn_implementation, model.forward
    trial = trial_batch(model)
    padded = find_out(lambda: trial_log_probs(model, trial))
    keeping = take_packs(model)
    reason = find_out(lambda: _difference(model, trial, padded, arithmetic or model.dtype))
    if reason is not None:
        model.forward = forward
        keeping.remove()
        model.set_attn_implementation(attention)
    return reason


def take_packs(model: Any) -> RemovableHandle:
    """Let a model take packs, whether or not it computes the same on them.

    Args:
        model: With TRL's fused LM head; changed in place.

    Returns:
        The handle of the hook that keeps what is scored.
    """
    forward = model.forward
    model.set_attn_implementation(PACKED)
    keeping = model.base_model.register_forward_hook(_keep_scored, with_kwargs=True)
    model.forward = types.MethodType(_packed_forward(forward, type(model).forward), model)
    return keeping


def _difference(
    model: PreTrainedModel, trial: tuple[Tensor, Tensor, Tensor], padded: Float[Tensor, "2 6"], dtype: torch.dtype
) -> str | None:
    """Say why a model that takes packs computes something else than from the padded batch; None where it does not."""
    try:
        packed = trial_log_probs(model, trial, packs=pack_batch(*trial))
        return None if agree(packed, padded, dtype) else "its packed log-probs differ from its padded ones"
    except torch.OutOfMemoryError:
        raise
    except CannotPackError as error:
        return str(error)
    except Exception as error:  # a model's own attention may trip over a mask or a layout that it does not know
        return f"it fails on a pack ({' '.join(str(error).split()):.120})"


def _packed_forward(fused_forward: Any, original_forward: Any) -> Any:
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


def _keep_scored(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Keep only the hidden states that predict an answer token, so that the LM head sees no other."""
    pack = kwargs.get("pack")
    if pack is not None:
        output.last_hidden_state = output.last_hidden_state[:, pack.scored]
    return output


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


def architecture_reason(model: PreTrainedModel) -> str | None:
    """Return why a model of this architecture cannot be packed, or None where only a trial tells."""
    config = model.config.get_text_config()
    other_layers = sorted(set(getattr(config, "layer_types", None) or ()) - _PACKABLE_LAYERS)
    if not model._supports_attention_backend:
        return "its attention does not go through transformers' AttentionInterface"
    if model._is_stateful or other_layers:
        return f"it has layers other than attention ({', '.join(other_layers) or 'recurrent ones'})"
    if config is not model.config:
        return "it is not a text-only model"
    return None


def trial_batch(model: PreTrainedModel) -> tuple[Int[Tensor, "2 7"], Int[Tensor, "2 7"], Int[Tensor, "2 7"]]:
    """Make a tiny pair to compare packed with padded on: the check that no list of architectures can replace.

    No token of it is padding, which RoBERTa gives a position of its own. Tokens are spread over the vocabulary: the
    first ones are special, and a row of nothing else is so odd that bfloat16 gives SmolLM2's log-probs 7 nats apart.
    """
    size = model.config.vocab_size
    spread = dict.fromkeys((11 + at * max(1, size // 15)) % size for at in range(16))
    words = [token for token in spread if token != model.config.pad_token_id]
    input_ids = torch.tensor([words[at % len(words)] for at in range(14)], device=model.device).view(2, 7)
    input_ids[1, :4] = input_ids[0, :4]
    completion_mask = torch.zeros_like(input_ids)
    completion_mask[:, 4:] = 1
    return input_ids, torch.ones_like(input_ids), completion_mask


def trial_log_probs(model: nn.Module, trial: tuple[Tensor, Tensor, Tensor], **given: Any) -> Float[Tensor, "2 6"]:
    """Return the log-probs of `trial_batch`, with what a prepared model is given beside it."""
    input_ids, attention_mask, completion_mask = trial
    labels = input_ids.masked_fill(completion_mask == 0, -100)
    with torch.no_grad(), evaluating(model):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return model(**inputs, labels=labels, fused_lm_head=True, **given).log_probs


def agree(packed: Float[Tensor, "*shape"], padded: Float[Tensor, "*shape"], dtype: torch.dtype) -> bool:
    """Compare to rounding: an attention that ignores the pack is off by far more, in a trained model.

    SmolLM2's log-probs of -20 differ by up to 1e-4 in float32 (with the number of threads), by 0.034 in float16 and
    0.30 in bfloat16 (35 and 38 times the dtype's epsilon), and by 5 with wrong positions.
    """
    tolerance = 1e-2 if dtype == torch.float32 else 200 * torch.finfo(dtype).eps
    return bool(torch.allclose(packed, padded, atol=tolerance, rtol=0.0))


def base_model_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model without PEFT's wrapper."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation for the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
