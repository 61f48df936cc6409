"""Tiny models, a tiny tokenizer and padded batches for the tests of packed training."""

from __future__ import annotations

import torch
from transformers import (
    PreTrainedModel,
)
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from ropo.lm.packing.layout import pack_batch
from tests.tiny.trained import VOCABULARY

LOG_PROB_TOLERANCE = 1e-4  # float32; the bound, measured 1e-6
GRADIENT_TOLERANCE = 1e-4  # relative to each tensor's largest gradient; the bound
OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def with_fused_head(model: PreTrainedModel) -> PreTrainedModel:
    """Add TRL's fused LM head, as its trainer does."""
    add_fused_lm_head(model, outputs=OUTPUTS)
    return model


def padded_batch(
    pairs: list[tuple[list[int], list[int], list[int]]],
    max_length: int | None = None,
    truncation_mode: str = "keep_start",
) -> dict:
    """Collate (prompt, chosen, rejected) token lists as TRL does."""
    collate = DataCollatorForPreference(pad_token_id=0, max_length=max_length, truncation_mode=truncation_mode)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return collate([dict(zip(names, pair, strict=True)) for pair in pairs])


def draw(seed: int, *lengths: int) -> list[list[int]]:
    """Draw token lists of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def edge_cases() -> dict[str, dict]:
    """Batches that packing may get wrong."""
    prompt, long_prompt, one, short, middle, long = draw(7, 6, 11, 1, 2, 5, 9)
    return {
        "varied": padded_batch([(prompt, middle, long), (long_prompt, long, short), (short, one, middle)]),
        "prompt of one token": padded_batch([(one, middle, long), (prompt, short, middle)]),
        "answers of one token": padded_batch([(prompt, one, short), (long_prompt, long[:1], one)]),
        "equal answers": padded_batch([(prompt, middle, middle), (long_prompt, long, short)]),
        "identical prompts": padded_batch([(prompt, middle, long), (prompt, short, one), (prompt, long, middle)]),
        "two prompts of one length": padded_batch([(prompt, middle, long), (prompt[::-1], short, long)]),
        "one prompt starts another": padded_batch([(prompt, middle, long), (prompt + middle, short, long)]),
        "truncation": padded_batch([(prompt, long, middle), (long_prompt, long, short)], max_length=12),
        "answer cut away": padded_batch([(prompt, long, middle), (long_prompt, long, short)], max_length=11),
        "no prompt": padded_batch([([], long, middle), (prompt, long, short)]),
        "one pair": padded_batch([(prompt, middle, long)]),
    }


def one_pack(case: str = "varied"):
    batch = edge_cases()[case]
    return pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])[0]


def dense_mask(pack, window: int | None) -> torch.Tensor:
    """Write the whole mask of a pack down: the plain reading of its segments."""
    mask = torch.zeros(pack.tokens, pack.tokens, dtype=torch.bool)
    start = 0
    for segment in pack.segments:
        for query in range(segment.length):
            past = [*range(segment.prefix_start, segment.prefix_start + segment.prefix_length)]
            past += range(start, start + query + 1)
            mask[start + query, past[-window:] if window else past] = True
        start += segment.length
    return mask


def packs_of(batch: dict, budget: int | None = None):
    return pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], budget=budget)


def score(model, batch: dict, packs=()):
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model(**inputs, labels=labels, fused_lm_head=True, **({"packs": packs} if packs else {}))


def scores_and_gradients(model, batch: dict, packs=()):
    """Score a batch and differentiate a sum that weighs every token differently."""
    model.zero_grad()
    scores = score(model, batch, packs)
    weights = torch.linspace(0.5, 1.5, scores.log_probs.numel()).view_as(scores.log_probs)
    (scores.log_probs * weights).sum().backward()
    return scores, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found, expected):
    scores, gradients = found
    expected_scores, expected_gradients = expected
    assert expected_scores.log_probs.abs().sum() > 0
    for name in OUTPUTS:
        difference = (scores[name].float() - expected_scores[name].float()).abs().max()
        assert difference <= LOG_PROB_TOLERANCE, name
    assert gradients.keys() == expected_gradients.keys()
    assert expected_gradients
    for name, expected_gradient in expected_gradients.items():
        scale = expected_gradient.abs().max()
        assert (gradients[name] - expected_gradient).abs().max() <= GRADIENT_TOLERANCE * scale + 1e-6, name
