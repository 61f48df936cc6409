from __future__ import annotations

import pytest
import torch

from ropo.lm.log_probs import answer_log_probs, hidden_states, pair_log_probs, text_loss
from ropo.lm.tokens import Limits, TextWindow, TokenPair
from tests.tiny.adapted import VOCABULARY, tiny_gpt2, tiny_llama

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


def test_pairs_are_cut_as_training_cuts_them() -> None:
    model = tiny_llama()
    pairs = [TokenPair(*draw(seed, 4, 3, 5)) for seed in range(3)]
    found = pair_log_probs(model, pairs)
    assert found.shape == (3, 2)
    assert float(found[2, 1]) == pytest.approx(float(one_by_one(model, pairs[2].prompt, pairs[2].rejected).sum()), 1e-5)
    cut = pair_log_probs(model, pairs, Limits(6))
    expected = one_by_one(model, pairs[2].prompt, pairs[2].rejected[:2]).sum()
    assert float(cut[2, 1]) == pytest.approx(float(expected), 1e-5)
    from_the_end = pair_log_probs(model, pairs, Limits(6, "keep_end"))
    expected = one_by_one(model, pairs[2].prompt[3:], pairs[2].rejected).sum()
    assert float(from_the_end[2, 1]) == pytest.approx(float(expected), 1e-5)
    answers_alone = pair_log_probs(model, pairs, Limits(3, "keep_end"))  # three tokens, of which the first is no guess
    expected = one_by_one(model, pairs[2].rejected[2:3], pairs[2].rejected[3:]).sum()
    assert float(answers_alone[2, 1]) == pytest.approx(float(expected), 1e-5)


def test_text_loss_is_the_mean_over_tokens_of_all_windows() -> None:
    model = tiny_llama()
    windows = [TextWindow(ids[:1], ids[1:]) for ids in draw(0, 8, 3)]
    scores = torch.cat([one_by_one(model, window.context, window.tokens) for window in windows])
    assert text_loss(model, windows) == pytest.approx(-float(scores.mean()), rel=1e-5)


def test_hidden_states_are_the_last_ones() -> None:
    model = tiny_llama()
    windows = [TextWindow(ids[:1], ids[1:]) for ids in draw(0, 8, 3)]
    rows = hidden_states(model, windows)
    assert rows.shape == (11, 48)
    with torch.no_grad():
        last = model.model(input_ids=torch.tensor([windows[1].ids])).last_hidden_state[0]
    assert torch.allclose(rows[8:], last, atol=1e-6)
