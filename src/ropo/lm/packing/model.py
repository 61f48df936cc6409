"""Run a causal language model on packs: whether it can, and what its attention and LM head are told."""

from __future__ import annotations

__all__ = ["agree", "architecture_reason", "difference", "take_packs", "trial_batch"]

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ropo.lm.packing import layout
from ropo.lm.packing.attention import PACKED, CannotPackError, no_mask
from ropo.lm.packing.layout import Pack

_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
_ROWS = 256  # whose log-softmax is made at once


def take_packs(model: Any) -> Callable[[], None]:
    """Let a model take packs, whether or not it computes the same on them.

    Args:
        model: Without PEFT's wrapper; changed in place.

    Returns:
        What leaves it as it was.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED)
    keeping = model.base_model.register_forward_hook(_keep_scored, with_kwargs=True)

    def undo() -> None:
        keeping.remove()
        model.set_attn_implementation(before)

    return undo


def takes_packs(model: Any) -> bool:
    """Tell whether a model, without PEFT's wrapper, takes packs already."""
    return bool(model.config._attn_implementation == PACKED)


def _keep_scored(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Keep only the hidden states that predict an answer token, so that the LM head sees no other."""
    pack = kwargs.get("pack")
    if pack is not None:
        output.last_hidden_state = output.last_hidden_state[:, pack.scored]
    return output


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


def difference(
    packed: Callable[[], Float[Tensor, "*shape"]], padded: Float[Tensor, "*shape"], dtype: torch.dtype
) -> str | None:
    """Say why a model that takes packs computes something else than from the padded batch; None where it does not.

    Args:
        packed: Computes log-probs of packs.
        padded: The same log-probs of a padded batch.
        dtype: What the model computes in.
    """
    try:
        return None if agree(packed(), padded, dtype) else "its packed log-probs differ from its padded ones"
    except torch.OutOfMemoryError:
        raise
    except CannotPackError as error:
        return str(error)
    except Exception as error:  # a model's own attention may trip over a mask or a layout that it does not know
        return f"it fails on a pack ({' '.join(str(error).split()):.120})"


def agree(packed: Float[Tensor, "*shape"], padded: Float[Tensor, "*shape"], dtype: torch.dtype) -> bool:
    """Compare to rounding: an attention that ignores the pack is off by far more, in a trained model.

    SmolLM2's log-probs of -20 differ by up to 1e-4 in float32 (with the number of threads), by 0.034 in float16 and
    0.30 in bfloat16 (35 and 38 times the dtype's epsilon), and by 5 with wrong positions.
    """
    tolerance = 1e-2 if dtype == torch.float32 else 200 * torch.finfo(dtype).eps
    return bool(torch.allclose(packed, padded, atol=tolerance, rtol=0.0))


def packed_log_probs(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], budget: int
) -> list[Float32[Tensor, " tokens"]]:
    """Compute log pi(y_t | x, y_<t) of every answer token with each prompt once and no padding, in nats.

    Args:
        model: One that takes packs, in evaluation mode, with or without PEFT's wrapper.
        prompts: Token ids of each prompt, at least one each.
        answers: Token ids of each answer, at least one each.
        budget: Most tokens in a pack; a longer prompt and answer make one of their own.

    Returns:
        One float32 tensor per answer, on the CPU.

    Cost: a forward pass per pack; the logits of its answers' tokens, and of 256 of these in float32.
    """
    scores = torch.empty(sum(map(len, answers)))
    for pack, logits in _passes(model, prompts, answers, budget):
        parts = zip(logits.split(_ROWS), pack.targets[0].split(_ROWS), strict=True)
        found = [rows.float().log_softmax(-1).gather(1, targets[:, None])[:, 0] for rows, targets in parts]
        scores[pack.cells.cpu()] = torch.cat(found).cpu()
    return list(scores.split([len(answer) for answer in answers]))


def packed_distributions(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Float32[Tensor, "tokens vocabulary"]]:
    """Compute log pi(. | x, y_<t) over the whole vocabulary at every answer token, in nats, in one pack.

    Arguments are those of `packed_log_probs`.

    Returns:
        One float32 tensor per answer, on the model's device.
    """
    ((pack, logits),) = _passes(model, prompts, answers, None)
    rows = logits[pack.cells.argsort()].float().log_softmax(-1)
    return list(rows.split([len(answer) for answer in answers]))


def _passes(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], budget: int | None
) -> Iterator[tuple[Pack, Float[Tensor, "answers vocabulary"]]]:
    """Yield each pack with the logits of what it scores; its cells number the tokens of all answers."""
    ends = accumulate(map(len, answers), initial=0)
    sequences = [
        layout.Sequence([*prompt, *answer], 0, len(prompt), list(range(start, start + len(answer))))
        for prompt, answer, start in zip(prompts, answers, ends, strict=False)
    ]
    groups = layout.cut_groups(layout.share_prompts(sequences), budget)
    for run in layout.split_by_budget(groups, budget):
        pack = layout.build_pack(run, model.device)
        output = model(
            input_ids=pack.input_ids,
            position_ids=pack.position_ids,
            attention_mask=no_mask(pack.input_ids.device),
            pack=pack,
            use_cache=False,
        )
        yield pack, output.logits[0]
