from __future__ import annotations

import pytest
import torch

from ropo.diagnostics import answer_log_probs, text_loss
from ropo.lm.log_probs import TokenPair, compare_on_pairs, hidden_states, pair_log_probs
from tests.adapter.models import VOCABULARY, tiny_gpt2, tiny_llama

MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2}


def draw(seed: int, *lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def one_by_one(model, prompt, answer):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    scores = logits.log_softmax(-1)
    return torch.stack([scores[len(prompt) + i - 1, token] for i, token in enumerate(answer)])


@pytest.mark.parametrize("name", MODELS)
def test_padded_batches_equal_single_sequences(name: str) -> None:
    model = MODELS[name]()
    prompts, answers = draw(0, 3, 1, 9, 5, 2, 4), draw(1, 1, 7, 2, 5, 3, 4)
    found = answer_log_probs(model, prompts, answers)
    assert [len(scores) for scores in found] == [1, 7, 2, 5, 3, 4]
    for scores, prompt, answer in zip(found, prompts, answers, strict=True):
        assert torch.allclose(scores.double(), one_by_one(model, prompt, answer), atol=1e-5)


def test_pairs_and_their_comparison() -> None:
    model, reference = tiny_llama(), tiny_llama(seed=1)
    pairs = [TokenPair(*draw(seed, 4, 3, 5)) for seed in range(3)]
    found, before = pair_log_probs(model, pairs), pair_log_probs(reference, pairs)
    assert found.shape == (3, 2)
    assert float(found[2, 1]) == pytest.approx(float(one_by_one(model, pairs[2].prompt, pairs[2].rejected).sum()), 1e-5)
    behaviour = compare_on_pairs(pairs, found, before)
    assert behaviour.margin == pytest.approx(behaviour.chosen_change - behaviour.rejected_change)
    assert behaviour.chosen_change_per_token == pytest.approx(behaviour.chosen_change / 3)


def test_text_loss_is_the_mean_over_tokens_of_all_windows() -> None:
    model = tiny_llama()
    windows = draw(0, 8, 3)
    scores = torch.cat([one_by_one(model, window[:1], window[1:]) for window in windows])
    assert text_loss(model, windows) == pytest.approx(-float(scores.mean()), rel=1e-5)


def test_hidden_states_are_the_last_ones() -> None:
    model = tiny_llama()
    windows = draw(0, 8, 3)
    rows = hidden_states(model, windows)
    assert rows.shape == (11, 48)
    with torch.no_grad():
        last = model.model(input_ids=torch.tensor([windows[1]])).last_hidden_state[0]
    assert torch.allclose(rows[8:], last, atol=1e-6)
