"""Plan batches of prompts and sample their answers."""

from __future__ import annotations

__all__ = ["load_sampler_model", "plan_batches", "sample_answers", "sample_batches"]

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ropo.lm.loading import load_policy
from ropo.lm.sampling.decoding import Decoder
from ropo.lm.sampling.settings import Answer, SamplingSettings


@dataclass(frozen=True)
class Batch:
    """The answers of one planned batch: `answers[i]` belong to prompt number `prompts[i]`."""

    number: int
    prompts: list[int]
    answers: list[list[Answer]]


def load_sampler_model(source: str, merged: bool = True) -> PreTrainedModel | PeftModel:
    """Load a model to run, on the GPU if there is one; an adapter is merged if asked, so it costs nothing a token.

    On a quantised base it is not merged: rounded to its few bits once more, the weights would give other answers.
    """
    policy: Any = load_policy(source)
    merges = merged and isinstance(policy, PeftModel) and not getattr(policy, "is_quantized", False)
    model = policy.merge_and_unload() if merges else policy
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def plan_batches(lengths: Sequence[int], prompts_per_batch: int) -> list[list[int]]:
    """Group prompts of similar length, so that little padding is computed; ties keep their order."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + prompts_per_batch] for start in range(0, len(order), prompts_per_batch)]


def batches_to_do(
    encoded: Sequence[Sequence[int]], settings: SamplingSettings, batch_size: int, done: Collection[int]
) -> Iterator[tuple[int, list[int]]]:
    """Yield the numbers of the batches that are not done, each with the numbers of its prompts."""
    plan = plan_batches([len(ids) for ids in encoded], max(1, batch_size // settings.samples))
    return ((number, prompts) for number, prompts in enumerate(plan) if number not in done)


def sample_batches(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    settings: SamplingSettings,
    batch_size: int,
    done: Collection[int] = (),
) -> Iterator[Batch]:
    """Sample answers batch by batch.

    Each answer has random numbers of its own, drawn from (seed, prompt number, sample number). So the same file,
    settings and batch size give the same text, also when a run is continued; with another batch size or number of
    threads the logits differ by rounding, and an answer changes only where a random number falls within that rounding.

    Args:
        model: A causal language model of transformers.
        tokenizer: The model's own.
        encoded: Token ids of each prompt.
        settings: How to sample.
        batch_size: Answers that are decoded at once; a prompt's samples stay together.
        done: Numbers of the batches to skip.

    Yields:
        Finished batches, in the order of the plan.

    Cost: see `ropo.lm.sampling.decoding.Decoder`.
    """
    decoder = Decoder(model, tokenizer, encoded, settings)
    stops = set(decoder.stops.tolist())
    for number, prompts in batches_to_do(encoded, settings, batch_size, done):
        uniforms = draw_uniforms(prompts, settings).to(model.device)
        rows = decoder.decode(prompts, uniforms)
        answers = [_to_answer(tokenizer, tokens, stops) for tokens in rows]
        grouped = [answers[start : start + settings.samples] for start in range(0, len(answers), settings.samples)]
        yield Batch(number, prompts, grouped)


def sample_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    settings: SamplingSettings,
    batch_size: int = 32,
) -> list[list[Answer]]:
    """Sample the answers to a few prompts, in the order of the prompts; see `sample_batches`.

    Two models are compared on the same random numbers: equal models give equal answers. No global random state is used.
    """
    answers: dict[int, list[Answer]] = {}
    for batch in sample_batches(model, tokenizer, encoded, settings, batch_size):
        answers.update(zip(batch.prompts, batch.answers, strict=True))
    return [answers[number] for number in range(len(encoded))]


def draw_uniforms(prompts: Sequence[int], settings: SamplingSettings) -> Float[Tensor, "rows steps"]:
    """Draw each answer's random numbers from its own stream, seeded by (seed, prompt number, sample number)."""
    streams = [
        np.random.default_rng([settings.seed, prompt, sample]).random(settings.max_new_tokens)
        for prompt in prompts
        for sample in range(settings.samples)
    ]
    return torch.from_numpy(np.stack(streams))


def _to_answer(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stops: Collection[int]) -> Answer:
    text = cast(str, tokenizer.decode(tokens, skip_special_tokens=True))
    return Answer(text.strip(), tuple(tokens), tokens[-1] in stops)
