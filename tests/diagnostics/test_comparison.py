"""Whole-model measures on a tiny vocabulary, where the truth can be computed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from ropo.diagnostics import HeldOut, compare, observe
from ropo.diagnostics.comparison import sampled_kl
from ropo.lm.sampling import SamplingSettings
from ropo.lm.sampling.settings import Answer
from tests.tiny.sampled import tiny_model
from tests.tiny.tokenizer import tiny_tokenizer

PROMPTS = [[1, 7, 8], [1, 9], [1, 10, 11, 12, 13], [1, 20]]
DRAWS = 400


def other_model():
    model = tiny_model()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def next_token(model, prompt):
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)


def test_sampled_kl_agrees_with_the_exact_one_within_its_standard_error() -> None:
    policy, reference = tiny_model(), other_model()
    generator = torch.Generator().manual_seed(0)
    exact, samples = [], []
    for prompt in PROMPTS:
        mine, theirs = next_token(policy, prompt), next_token(reference, prompt)
        exact.append(float((mine.exp() * (mine - theirs)).sum()))
        drawn = torch.multinomial(mine.exp(), DRAWS, replacement=True, generator=generator).tolist()
        samples.append([Answer("", (token,), True) for token in drawn])
    # As if each answer were to a prompt of its own: an error over four prompts would be mostly their difference.
    apart = [prompt for prompt in PROMPTS for _ in range(DRAWS)], [[each] for group in samples for each in group]
    found = sampled_kl(policy, lambda: nullcontext(reference), *apart)
    expected = sum(exact) / len(exact)
    assert found.answers == found.prompts == len(PROMPTS) * DRAWS
    assert 0.0 < found.standard_error < 0.2 * expected
    assert abs(found.per_answer - expected) < 3 * found.standard_error
    backwards = sampled_kl(reference, lambda: nullcontext(policy), *apart)
    assert abs(backwards.per_answer - expected) > 3 * found.standard_error, "the direction matters"
    grouped = sampled_kl(policy, lambda: nullcontext(reference), PROMPTS, samples)
    assert (grouped.answers, grouped.prompts) == (len(PROMPTS) * DRAWS, len(PROMPTS))
    assert grouped.per_answer == found.per_answer
    between = torch.tensor(exact, dtype=torch.float64).std() / len(exact) ** 0.5
    assert grouped.standard_error == pytest.approx(float(between), rel=0.2)  # what 400 answers leave uncertain


@pytest.mark.parametrize(("temperature", "top_p", "known"), [(1.0, 1.0, True), (0.7, 1.0, False), (1.0, 0.9, False)])
def test_kl_is_estimated_from_plain_samples_only(temperature: float, top_p: float, known: bool) -> None:
    settings = SamplingSettings(samples=2, temperature=temperature, top_p=top_p, max_new_tokens=4)
    assert HeldOut(prompts=PROMPTS, settings=settings).allows_kl == known
    assert not HeldOut(settings=settings).allows_kl, "nothing was sampled"


def test_equal_models_answer_equally_and_have_no_divergence() -> None:
    model = tiny_model()
    settings = SamplingSettings(samples=3, max_new_tokens=6)
    held_out = HeldOut(prompts=PROMPTS, settings=settings)
    policy, reference = (observe(model, tiny_tokenizer(), held_out) for _ in range(2))
    kl = sampled_kl(model, lambda: nullcontext(model), PROMPTS, policy.samples)
    found = compare(held_out, policy, reference, kl).answers
    assert found.policy == found.reference
    assert found.policy.answers == 12
    assert (found.length_ratio, found.kl.per_answer) == (1.0, 0.0)
