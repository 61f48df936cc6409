"""Judges that do not answer with one letter or one grade, as a user meets them: read alike wherever they run."""

from __future__ import annotations

import json

import pytest

from ropo.cli.main import main
from ropo.evaluation.alpaca_eval import metrics
from ropo.evaluation.results import read_results
from ropo.judging import local
from ropo.judging.judge import Meter
from ropo.lm.sampling.batches import Answer, Batch
from tests.evaluation.fake_endpoint import serving
from tests.tiny.sampled import save_tiny
from tests.tiny.tokenizer import CHAT_TEMPLATE, tiny_tokenizer

COUNT = 20
FORMS = {  # with `{}` for the letter that the judge means and `{other}` for the other one
    "bare": "{}",
    "label": "Answer: {}",
    "bold": "**{}**",
    "brackets": "[[{}]]",
    "parentheses": "({})",
    "sentence": "Option {} is better.",
    "json": '{{"why": "Answer {other} is better at first sight", "verdict": "{}"}}',
    "thinking": "<think>Answer {other} is better. Answer: {other}</think>\n\n{}",
    "opened by the template": "I take {other}.\nAnswer: {other}\n</think>\n\n**Verdict: {}**",
    "with reasons": "Answer {other} is long. Answer {} is right.\n\nFinal answer: {}",
}
LOG_PROBS = {"Answer": -0.02, "The": -4.0, "A": -6.0}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(metrics, "REFITS", 20)  # enough to see an interval, and quick
    for name in ("reference", "mine"):
        records = [{"instruction": f"request {i}", "output": f"{name} {i}"} for i in range(COUNT)]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    return tmp_path


def meant(question):
    """Return the letters of our answer and of the other one."""
    first = question[question.index("<answer_a>") : question.index("<answer_b>")]
    return ("A", "B") if "mine" in first else ("B", "A")


def say(form, question):
    letter, other = meant(question)
    return form.format(letter, letter, other=other) if form.count("{}") > 1 else form.format(letter, other=other)


def judge(place, *flags):
    given = ("mine.json", "--reference_outputs", "reference.json", "--swapped", "4", "--output", "out", *flags)
    assert main(["evaluate", "alpaca-eval", *given]) == 0
    result = read_results(place / "out")
    return result.models[0], result.notes


def judge_endpoint(place, answer, *flags, **options):
    with serving(answer=answer, **options) as server:
        return judge(place, "--judge", "openai:m", "--judge_url", server.url, *flags)


@pytest.mark.parametrize("flags", [(), ("--judge_logprobs",)])
@pytest.mark.parametrize("form", FORMS)
def test_a_judge_behind_an_endpoint_that_always_prefers_us(place, form, flags):
    answer = lambda body: say(FORMS[form], body["messages"][-1]["content"])  # noqa: E731
    found, notes = judge_endpoint(place, answer, *flags, logprobs=LOG_PROBS)
    assert (found.metric("win_rate").value, found.metric("no_verdict").value) == (100.0, 0.0)
    assert found.details["verdicts_read"] == {"text": COUNT + 4}
    assert "mine.json: verdicts were read 0 from log-probabilities, 24 from text; 0 of 24 are missing" in notes


def test_letters_with_most_of_the_mass_weigh_the_verdict(place):
    answer = lambda body: meant(body["messages"][-1]["content"])[0]  # noqa: E731
    found, notes = judge_endpoint(place, answer, "--judge_logprobs", logprobs={"A": -0.5108256, "B": -1.6094379})
    mean = found.metric("win_rate").value  # P(A) = 0.6 and P(B) = 0.2, whoever is shown first
    first = json.loads((place / "out" / "annotations" / "mine.json.json").read_text())
    assert {round(each["preference"] - 1, 4) for each in first} == {0.25, 0.75}
    assert mean == pytest.approx(100 * sum(each["preference"] - 1 for each in first) / COUNT)
    assert found.details["verdicts_read"] == {"log-probabilities": COUNT + 4}
    assert any("24 from log-probabilities, 0 from text" in note for note in notes)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("A or B", "unparsable verdict"),
        ("Both are fine.", "unparsable verdict"),
        ({"message": {"content": "<think>Answer: A"}, "finish_reason": "length"}, "cut before its verdict"),
        ({"message": {"content": "Answer A is better in"}, "finish_reason": "length"}, "cut before its verdict"),
        ({"message": {"content": None, "reasoning_content": "A"}, "finish_reason": "length"}, "cut before its verdict"),
    ],
)
def test_a_judge_that_decides_nothing_has_no_win_rate_and_says_so_loudly(place, capsys, choice, reason):
    """Fifty percent of nothing would look like a result."""
    found, notes = judge_endpoint(place, lambda body: choice)
    assert found.metric("no_verdict").value == 1.0
    assert found.metric("average_length").value > 0
    numbers = [each for each in found.metrics if each.name not in ("no_verdict", "average_length")]
    assert len(numbers) >= 6
    assert {(each.value, each.low, each.high) for each in numbers} == {(None, None, None)}
    assert notes[0].startswith(f"WARNING: mine.json: 24 of 24 verdicts are missing (24 {reason})")
    assert ("--judge_max_tokens" in notes[0]) == reason.startswith("cut")
    assert notes[0] in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("unclear", "loud"), [(1, False), (6, True)])
def test_many_missing_verdicts_are_said_loudly_and_few_plainly(place, capsys, unclear, loud):
    def answer(body):
        text = body["messages"][-1]["content"]
        return "A or B" if any(f"request {i}\n" in text for i in range(unclear)) else meant(text)[0]

    found, notes = judge_endpoint(place, answer, "--swapped", "0")
    assert found.metric("no_verdict").value == unclear / COUNT
    assert found.metric("win_rate").value == pytest.approx(100 * (COUNT - unclear / 2) / COUNT)
    assert any(f"{unclear} of {COUNT} are missing" in note for note in notes)
    assert any(note.startswith("WARNING") for note in notes) == loud == ("WARNING" in capsys.readouterr().err)


def save_judge(folder, template):
    model, tokenizer = save_tiny(folder), tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return f"transformers:{model}"


@pytest.fixture
def scripted(monkeypatch):
    """Let the local judge say what a function makes of its question, which the tiny vocabulary cannot hold."""
    asked, script = [], {}
    apply = local.apply_template

    def remembering(tokenizer, turns, where, **options):
        ids = apply(tokenizer, turns, where, **options)
        if options.get("tokenize", True):
            asked.append(turns)
            ids = ids[:6]
        return ids

    def sampling(model, tokenizer, encoded, settings, batch_size):
        script["settings"] = settings
        for number, turns in enumerate(asked[-len(encoded) :]):
            yield Batch(
                number, [number], [[Answer(script["say"](turns[-1]["content"]), (3, 4, 5), script.get("ended", True))]]
            )

    monkeypatch.setattr(local, "apply_template", remembering)
    monkeypatch.setattr(local, "sample_batches", sampling)
    script["asked"] = asked
    return script


@pytest.mark.parametrize("flags", [(), ("--judge_logprobs",)])
@pytest.mark.parametrize("form", FORMS)
def test_a_local_judge_that_always_prefers_us(place, scripted, form, flags):
    scripted["say"] = lambda question: say(FORMS[form], question)
    found, notes = judge(place, "--judge", save_judge(place / "judge", CHAT_TEMPLATE), *flags)
    assert (found.metric("win_rate").value, found.metric("no_verdict").value) == (100.0, 0.0)
    assert any("0 from log-probabilities, 24 from text; 0 of 24" in note for note in notes)


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
DROPPING = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + CHAT_TEMPLATE


@pytest.mark.parametrize("template", [REFUSING, DROPPING, CHAT_TEMPLATE])
def test_a_template_without_a_system_turn_gets_its_text_in_the_users(place, scripted, template):
    scripted["say"] = lambda question: meant(question)[0]
    found, _ = judge(place, "--judge", save_judge(place / "judge", template))
    assert found.metric("win_rate").value == 100.0
    roles = {tuple(turn["role"] for turn in turns) for turns in scripted["asked"]}
    assert roles == {("system", "user") if template == CHAT_TEMPLATE else ("user",)}
    for turns in scripted["asked"]:
        assert turns[0]["content"].startswith("You compare two answers")
        assert turns[-1]["content"].endswith("A or B.")


OPENING = CHAT_TEMPLATE.replace("<assistant> ", "<assistant> <think> ")
SWITCHED = CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think> </think> {% endif %}"


def test_a_judge_that_thinks_gets_tokens_enough(place, scripted, monkeypatch):
    monkeypatch.setattr(local, "_LEAST_THINKING", 100)  # the tiny model has a context of 128 tokens
    scripted["say"] = lambda question: f"Answer: {meant(question)[1]} </think> {meant(question)[0]}"
    for template in (OPENING, SWITCHED):
        found, _ = judge(place, "--judge", save_judge(place / "judge", template), "--overwrite")
        assert found.metric("win_rate").value == 100.0
        assert read_results(place / "out").settings["judge_max_tokens"] == local.THINKING_TOKENS
        assert scripted["settings"].max_new_tokens == 128 - 6, "all that its context leaves"


def test_thinking_that_the_template_opened_and_nothing_closed_is_no_verdict(place, scripted, monkeypatch):
    monkeypatch.setattr(local, "_LEAST_THINKING", 100)
    scripted |= {"say": lambda question: f"Answer: {meant(question)[0]}", "ended": False}
    found, notes = judge(place, "--judge", save_judge(place / "judge", OPENING))
    assert found.metric("no_verdict").value == 1.0
    assert "24 cut before its verdict" in notes[0]


@pytest.mark.parametrize("template", [OPENING, SWITCHED])
def test_too_few_tokens_to_think_are_refused_before_anything_is_written(place, capsys, template):
    source = save_judge(place / "judge", template)
    given = ("mine.json", "--reference_outputs", "reference.json", "--output", "out", "--judge", source)
    assert main(["evaluate", "alpaca-eval", *given, "--judge_max_tokens", "64"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "think before its verdict, which judge_max_tokens 64 cuts off; give --judge_max_tokens 4096" in line
    assert not (place / "out").exists()


def test_thinking_that_the_template_rules_out_needs_no_more_tokens(place):
    closed = CHAT_TEMPLATE.replace("<assistant> ", "<assistant> {# enable_thinking #}<think> </think> ")
    assert not local.LocalChat(save_judge(place / "judge", closed).partition(":")[2], 8, 1, 64).thinks


def test_local_log_probabilities_are_the_models(place):
    """The likeliest token is the one that greedy sampling writes."""
    chat = local.LocalChat(save_judge(place / "judge", CHAT_TEMPLATE).partition(":")[2], 4, 2, 64, logprobs=True)
    replies = []
    asked = [[{"role": "user", "content": text}] for text in ("the cat sat", "a dog ran", "two fast cat")]
    assert len(list(chat.ask(asked, lambda number, reply: replies.append(reply), Meter()))) == 3
    assert replies
    for reply in replies:
        best = max(reply.first_token, key=reply.first_token.get)
        assert reply.text.startswith(best) or best.startswith("<"), "special tokens are not written"
        assert max(reply.first_token.values()) < 0
