from __future__ import annotations

import math

import pytest
import torch

from ropo.core.errors import UserError
from ropo.diagnostics.behaviour import dpo_margins, estimate_kl, measure_behaviour, pearson

LENGTHS = torch.tensor([[2, 4], [5, 10]])


def test_worked_by_hand() -> None:
    # Changes: chosen +1, -5; rejected -2, -6. Margins: 3, 1.
    reference = torch.tensor([[-10.0, -20.0], [-30.0, -40.0]])
    found = measure_behaviour(reference + torch.tensor([[1.0, -2.0], [-5.0, -6.0]]), reference, LENGTHS)
    assert (found.pairs, found.chosen_change, found.rejected_change) == (2, -2.0, -4.0)
    assert found.chosen_change_per_token == pytest.approx((0.5 - 1.0) / 2)
    assert found.rejected_change_per_token == pytest.approx((-0.5 - 0.6) / 2)
    assert (found.margin, found.beta) == (pytest.approx(0.2), 0.1)
    assert (found.accuracy, found.displacement) == (1.0, 0.5)
    # lengths 2 4 5 10 against changes 1 -2 -5 -6: sums of products -28, of squares 34.75 and 30
    assert found.length_reward_correlation == pytest.approx(-28.0 / math.sqrt(34.75 * 30.0), rel=1e-6)


def test_margins_are_beta_times_the_difference_of_gains() -> None:
    before = torch.tensor([[-10.0, -8.0], [-5.0, -9.0]])
    after = torch.tensor([[-7.0, -9.0], [-6.0, -8.0]])  # gains: chosen +3, -1; rejected -1, +1
    assert dpo_margins(after, before, beta=0.5).tolist() == [2.0, -1.0]
    assert dpo_margins(before, before, beta=0.5).tolist() == [0.0, 0.0]


def test_policy_that_equals_its_reference() -> None:
    reference = torch.tensor([[-10.0, -20.0], [-30.0, -40.0]])
    found = measure_behaviour(reference, reference, LENGTHS)
    assert (found.margin, found.accuracy, found.displacement) == (0.0, 0.0, 0.0)
    assert found.length_reward_correlation is None


def test_pearson_of_a_line() -> None:
    x = torch.arange(5.0)
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1.0)
    assert pearson(x, torch.ones(5)) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_broken_log_probs(bad: float) -> None:
    reference = torch.zeros(2, 2)
    broken = reference.clone()
    broken[1, 0] = bad
    with pytest.raises(UserError, match="log-probs: must be finite"):
        measure_behaviour(broken, reference, LENGTHS)
    with pytest.raises(UserError, match="log-probs: must be finite"):
        estimate_kl(broken, reference, torch.ones(2, 2, dtype=torch.bool), torch.arange(2))


def test_refuses_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="at least one held-out pair"):
        measure_behaviour(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(UserError, match="no token"):
        measure_behaviour(torch.zeros(2, 2), torch.zeros(2, 2), LENGTHS * torch.tensor([[1, 0], [1, 1]]))
    with pytest.raises(UserError, match="at least one sampled token"):
        estimate_kl(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), torch.arange(2))


POLICY = torch.tensor([4, 2, 1, 1]).double() / 8
REFERENCE = torch.tensor([1, 3, 2, 2]).double() / 8
EXACT = float((POLICY * (POLICY / REFERENCE).log()).sum())


def test_kl_is_exact_in_expectation() -> None:
    tokens = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])  # each as often as the policy samples it
    policy, reference = POLICY.log()[tokens].unsqueeze(1), REFERENCE.log()[tokens].unsqueeze(1)
    found = estimate_kl(policy, reference, torch.ones(8, 1, dtype=torch.bool), torch.arange(8))
    assert found.per_answer == found.per_token == pytest.approx(EXACT, rel=1e-12)
    assert EXACT > 0.3


def test_kl_of_sampled_answers_lies_within_its_standard_error() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 6, (4000,), generator=generator)
    mask = torch.arange(5) < lengths.unsqueeze(1)
    tokens = torch.multinomial(POLICY, 4000 * 5, replacement=True, generator=generator).view(4000, 5)
    policy, reference = POLICY.log()[tokens], REFERENCE.log()[tokens]
    policy[~mask] = reference[~mask] = math.nan  # padding must not be read
    found = estimate_kl(policy, reference, mask, torch.arange(4000))
    assert found.answers == 4000
    assert found.standard_error is not None
    expected = EXACT * float(lengths.double().mean())
    assert 0.0 < found.standard_error < 0.05
    assert abs(found.per_answer - expected) < 3 * found.standard_error
    assert found.per_token == pytest.approx(EXACT, rel=0.1)
    plain = (policy - reference).masked_fill(~mask, 0.0).sum(dim=1)
    assert found.standard_error < float(plain.std()) / math.sqrt(4000)  # the point of k3
    assert found.per_token_interval is not None
    low, high = found.per_token_interval
    assert low < EXACT < high
    # A ratio of sums: by the delta method its error is that of the residuals over the mean length.
    ratio = reference - policy
    k3 = torch.where(mask, ratio.expm1() - ratio, 0.0).sum(dim=1)
    error = float((k3 - found.per_token * lengths).std()) / float(lengths.double().mean()) / math.sqrt(4000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def made_answers(prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probs of answers under both models, and their mask; answers to one prompt diverge alike."""
    generator = torch.Generator().manual_seed(0)
    drift = torch.randn(int(prompts.max()) + 1, generator=generator).abs()[prompts]
    policy = -torch.rand(len(prompts), 5, generator=generator).double()
    mask = torch.arange(5) < torch.randint(1, 6, (len(prompts), 1), generator=generator)
    return policy, policy - drift.unsqueeze(1) * torch.rand(policy.shape, generator=generator), mask


def test_more_answers_to_the_same_prompts_that_say_the_same_make_nothing_surer() -> None:
    once = made_answers(torch.arange(20))
    alone = estimate_kl(*once, torch.arange(20))
    asked = torch.arange(20).repeat_interleave(4)
    found = estimate_kl(*(each.repeat_interleave(4, dim=0) for each in once), asked)
    assert (alone.prompts, alone.answers, found.prompts, found.answers) == (20, 20, 20, 80)
    assert found.per_answer == pytest.approx(alone.per_answer, rel=1e-12)
    assert found.per_token == pytest.approx(alone.per_token, rel=1e-12)
    assert found.standard_error == pytest.approx(alone.standard_error, rel=1e-12)
    assert found.per_token_interval == pytest.approx(alone.per_token_interval, rel=1e-12)


def test_error_of_kl_is_over_prompts_however_many_answers_each_has() -> None:
    counts = torch.tensor([1, 4, 2, 3] * 100)
    asked = torch.arange(400).repeat_interleave(counts)
    policy, reference, mask = made_answers(asked)
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(1))
    found = estimate_kl(policy[order], reference[order], mask[order], 7 * asked[order])
    assert (found.prompts, found.answers) == (400, 1000)
    ratio = reference - policy
    k3 = torch.where(mask, ratio.expm1() - ratio, 0.0).sum(dim=1)
    assert found.per_answer == pytest.approx(float(k3.mean()))
    assert found.per_token == pytest.approx(float(k3.sum() / mask.sum()))
    of_prompts = torch.zeros(400).double().index_add(0, asked, k3)
    jackknifed = (k3.sum() - of_prompts) / (1000 - counts)  # the mean without each prompt
    error = math.sqrt(399 / 400 * float((jackknifed - jackknifed.mean()).square().sum()))
    assert found.standard_error == pytest.approx(error, rel=0.02)
    assert found.standard_error > 1.3 * float(k3.std()) / math.sqrt(1000)
    tokens = torch.zeros(400).double().index_add(0, asked, mask.sum(dim=1).double())
    error = float((of_prompts - found.per_token * tokens).std()) / float(tokens.mean()) / math.sqrt(400)
    low, high = found.per_token_interval or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_kl_of_one_prompt_has_no_standard_error() -> None:
    found = estimate_kl(*made_answers(torch.zeros(3, dtype=torch.long)), torch.zeros(3, dtype=torch.long))
    assert (found.prompts, found.answers) == (1, 3)
    assert found.standard_error is found.per_token_interval is None


def test_kl_of_one_answer_has_no_standard_error() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = estimate_kl(
        torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.5]]), mask, torch.zeros(1, dtype=torch.long)
    )
    assert found.standard_error is None
    assert found.per_token_interval is None
    assert found.per_answer == pytest.approx(2 * (math.exp(-0.5) - 1 + 0.5))
