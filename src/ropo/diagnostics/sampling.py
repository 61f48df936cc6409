"""Sample the answers that are measured, with the same random numbers for policy and reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ropo.diagnostics.answers import Generation
from ropo.lm.sampling.batches import draw_uniforms
from ropo.lm.sampling.decoding import Decoder
from ropo.lm.sampling.settings import SamplingSettings

ROWS = 32


def sample_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], settings: SamplingSettings
) -> list[list[Generation]]:
    """Sample answers to a few prompts, touching no global random state.

    Every answer has random numbers of its own (seed, prompt, sample), so two models are compared on the same draws:
    equal models give equal answers.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: The model's own.
        prompts: Token ids.
        settings: How to sample.

    Returns:
        For each prompt its samples.

    Cost: see `ropo.lm.sampling.decoding.Decoder`; up to 32 answers at a time.
    """
    decoder = Decoder(model, tokenizer, prompts, settings)
    stops = set(decoder.stops.tolist())
    size = max(1, ROWS // settings.samples)
    groups: list[list[Generation]] = []
    for start in range(0, len(prompts), size):
        numbers = range(start, min(start + size, len(prompts)))
        uniforms = draw_uniforms(numbers, settings).to(model.device)
        rows = decoder.decode(numbers, uniforms)
        answers = [
            Generation(tokenizer.decode(row, skip_special_tokens=True).strip(), tuple(row), row[-1] in stops)
            for row in rows
        ]
        groups += [answers[first : first + settings.samples] for first in range(0, len(answers), settings.samples)]
    return groups
