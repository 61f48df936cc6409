"""The decoding loop: prompts run once, their cache is shared by all samples, and finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropo.core.errors import UserError
from ropo.lm.sampling.picking import pick_tokens
from ropo.lm.sampling.settings import SamplingSettings

# Dropping finished rows copies the cache of the others, so it waits until this share of the rows is finished.
DROP_SHARE = 0.125


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[Tensor, "rows steps"],
    settings: SamplingSettings,
    stop_tokens: Int[Tensor, " stops"],
) -> list[list[int]]:
    """Continue each prompt `settings.samples` times.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompts: Token ids, one sequence a prompt.
        uniforms: Random numbers in [0, 1): row `prompt * samples + sample`, one column a new token.
        settings: Temperature, top-p, samples and the longest answer.
        stop_tokens: Tokens that end an answer.

    Returns:
        The new tokens of each row, a final stop token included.

    Raises:
        UserError: If the model's logits are NaN after the prompts.

    Cost: one forward pass over the prompts and one a new token; the cache holds every row's keys and values.
    """
    tokens, mask = left_pad(prompts, model.device)
    output = model(
        input_ids=tokens, attention_mask=mask, position_ids=_positions(mask), use_cache=True, logits_to_keep=1
    )
    if output.logits[:, -1].isnan().any():
        raise UserError("model: its next-token logits are NaN, so nothing can be sampled; its weights are broken")
    cache = output.past_key_values
    cache.batch_repeat_interleave(settings.samples)
    mask = mask.repeat_interleave(settings.samples, 0)
    logits = output.logits[:, -1].repeat_interleave(settings.samples, 0)

    answers: list[list[int]] = [[] for _ in range(len(mask))]
    rows = torch.arange(len(mask), device=model.device)
    live = torch.ones_like(rows, dtype=torch.bool)
    for step in range(settings.max_new_tokens):
        tokens = pick_tokens(logits, uniforms[rows, step], settings.temperature, settings.top_p)
        for row, token, going_on in zip(rows.tolist(), tokens.tolist(), live.tolist(), strict=True):
            if going_on:
                answers[row].append(token)
        live &= ~torch.isin(tokens, stop_tokens)
        if not live.any() or step + 1 == settings.max_new_tokens:
            break
        if live.float().mean() <= 1 - DROP_SHARE:
            kept = live.nonzero().flatten()
            cache.batch_select_indices(kept)
            rows, tokens, mask, live = rows[kept], tokens[kept], mask[kept], live[kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=_positions(mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
    return answers


def left_pad(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "prompts length"], Int[Tensor, "prompts length"]]:
    """Pad token ids on the left with 0, which the mask hides, so that every prompt ends in the last column."""
    length = max(map(len, prompts))
    tokens = torch.tensor([[0] * (length - len(ids)) + list(ids) for ids in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    return tokens, mask


def _positions(mask: Int[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    return (mask.cumsum(-1) - 1).clamp(min=0)
