from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import PromptTuningConfig, get_peft_model

from ropo.lm import log_probs
from ropo.lm.log_probs import answer_distributions, answer_log_probs, hidden_states, pair_log_probs, text_loss
from ropo.lm.packing import attention
from ropo.lm.tokens import Limits, TextWindow, TokenPair
from tests.tiny.adapted import VOCABULARY, tiny_gpt2, tiny_llama
from tests.tiny.trained import CONFIGS, tiny_model

MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2}


def draw(seed: int, *lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def one_by_one(model, prompt, answer):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    scores = logits.log_softmax(-1)
    return torch.stack([scores[len(prompt) + i - 1, token] for i, token in enumerate(answer)])


def sequences() -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts, one of which is there three times and not in a row, and answers, two of which are equal."""
    first, second, third, fourth = draw(0, 3, 1, 9, 5)
    answers = draw(1, 1, 7, 2, 5, 3, 4)
    return [first, second, first, third, fourth, first], [*answers[:5], answers[2]]


def assert_each_alone(found: list[torch.Tensor], model, prompts, answers) -> None:
    assert [len(scores) for scores in found] == [len(answer) for answer in answers]
    for scores, prompt, answer in zip(found, prompts, answers, strict=True):
        assert torch.allclose(scores.double(), one_by_one(model, prompt, answer), atol=1e-5)


def widths(model) -> list[tuple[int, int]]:
    """Return a list that gets the shape of the token ids of every forward pass from now on."""
    seen: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("name", CONFIGS)
def test_packs_equal_single_sequences(name: str) -> None:
    model = tiny_model(name).eval()
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # sdpa leaves the cap out
    attention = model.config._attn_implementation
    prompts, answers = sequences()
    answer_log_probs(model, prompts, answers)  # tries whether it can
    seen = widths(model)
    found = answer_log_probs(model, prompts, answers)
    assert seen == [(1, 34)]  # 18 of four prompts, 22 of answers, the last of each left out, 2 seams
    assert_each_alone(found, model, prompts, answers)
    assert model.config._attn_implementation == attention
    assert not model.base_model._forward_hooks


@pytest.mark.parametrize("padded", [False, True])
def test_distributions_are_whole(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if padded:
        monkeypatch.setattr(log_probs, "difference", lambda *args: "its packed log-probs differ from its padded ones")
    model, (prompts, answers) = tiny_llama(), sequences()
    found = answer_distributions(model, prompts, answers)
    for rows, prompt, answer in zip(found, prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        assert torch.allclose(rows, logits.log_softmax(-1), atol=1e-5)


def test_packs_hold_a_budget_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "_PACK", 16)
    model, (prompts, answers) = tiny_llama(), sequences()
    seen = widths(model)
    found = answer_log_probs(model, prompts, answers)
    assert len(seen) == 5  # the trial's two, padded and packed
    assert all(tokens <= 16 for _, tokens in seen[2:])
    assert_each_alone(found, model, prompts, answers)


def test_one_prompt_of_many_answers_is_cut_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the windows of a text, which may all begin with one token."""
    monkeypatch.setattr(log_probs, "_PACK", 16)
    model, answers = tiny_llama(), draw(1, 6, 9, 7, 8, 5)
    prompts = [[5, 6]] * len(answers)
    seen = widths(model)
    found = answer_log_probs(model, prompts, answers)
    assert len(seen) == 2 + 3
    assert all(tokens <= 16 for _, tokens in seen[2:])
    assert_each_alone(found, model, prompts, answers)


@pytest.mark.parametrize("name", MODELS)
def test_padded_batches_equal_single_sequences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "difference", lambda *args: "its packed log-probs differ from its padded ones")
    model, (prompts, answers) = MODELS[name](), sequences()
    seen = widths(model)
    found = [answer_log_probs(model, prompts, answers) for _ in range(2)]
    assert [rows for rows, _ in seen] == [2, 4, 2, 4, 2]  # a pair to try it with, once; then four answers at once
    for each in found:
        assert_each_alone(each, model, prompts, answers)


def test_a_model_that_errs_on_packs_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend_across(query, key, value, *args):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)

    monkeypatch.setattr(attention, "attend_segments", attend_across)  # as if the whole pack were one answer
    model, (prompts, answers) = tiny_llama(), sequences()
    model.load_state_dict({name: 4 * weight for name, weight in model.state_dict().items()})  # not as even as untrained
    seen = widths(model)
    found = answer_log_probs(model, prompts, answers)
    assert [rows for rows, _ in seen] == [2, 1, 4, 2]  # a pair to try it with, padded and packed
    assert_each_alone(found, model, prompts, answers)


def test_virtual_tokens_of_an_adapter_are_seen() -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    prompts, answers = sequences()
    found = answer_log_probs(model, prompts, answers)
    plain = answer_log_probs(model.get_base_model(), prompts, answers)
    assert max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True)) > 1e-3
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompts[3], *answers[3]]])).logits[0, 3:].double()
    expected = logits.log_softmax(-1)[len(prompts[3]) - 1 : -1].gather(1, torch.tensor(answers[3])[:, None])[:, 0]
    assert torch.allclose(found[3].double(), expected, atol=1e-5)


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
