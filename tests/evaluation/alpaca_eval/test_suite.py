"""The suite `alpaca-eval` as a user runs it, with rules, functions and an endpoint as judges."""

from __future__ import annotations

import json

import pytest

from ropo.cli.main import main
from ropo.evaluation.alpaca_eval import metrics
from ropo.evaluation.results import read_results
from tests.evaluation.fake_endpoint import endpoint_flags, serving
from tests.tiny.sampled import TEXTS

KEY = "sk-secret-4711"
INSTRUCTIONS = [f"request {number}" for number in range(40)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Work in a folder with outputs of three models, a key, and a judge that counts letters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(metrics, "REFITS", 100)  # enough to see an interval, and quick
    write_outputs("reference.json", [f"good {'x' * (7 * i % 40)}" for i in range(40)], "other")
    write_outputs("long.json", [f"good {'x' * (7 * i % 40 + (9 if i % 3 else -3))}" for i in range(40)])
    write_outputs("bad.json", [f"bad {'x' * (11 * i % 40)}" for i in range(40)])
    (tmp_path / "letters.py").write_text("def length(record, answers):\n    return [len(a) for a in answers]\n")
    return tmp_path


def write_outputs(name, texts, generator=None, instructions=INSTRUCTIONS):
    records = [{"instruction": asked, "output": text} for asked, text in zip(instructions, texts, strict=True)]
    if generator:
        records = [{**record, "generator": generator, "dataset": "d"} for record in records]
    with open(name, "w") as file:
        json.dump(records, file)


def evaluate(*arguments):
    return main(["evaluate", "alpaca-eval", *map(str, arguments), "--output", "out"])


def prefers_good(body):
    first, second = body["messages"][-1]["content"].split("Answer B:")
    return "A" if "good" in first.split("Answer A:")[1] and "bad" in second else "B"


def test_a_judge_of_length_is_exposed_and_files_are_those_of_alpaca_eval(place):
    assert evaluate("long.json", "--reference_outputs", "reference.json", "--judge", "letters:length") == 0
    result = read_results(place / "out")
    (found,) = result.models
    longer, shorter = (found.metric(f"win_rate_when_{kind}") for kind in ("longer", "shorter"))
    assert (longer.value, longer.count, shorter.value, shorter.count) == (100.0, 26, 0.0, 13)  # one is as long
    assert found.metric("win_rate").value == pytest.approx(100 * 26.5 / 40)
    assert any("prefers the longer output almost always" in note for note in result.notes)
    assert found.metric("order_agreement").value == 1.0
    assert found.fingerprint is None
    assert any("lacks the instruction difficulties" in note for note in result.notes)
    outputs = json.loads((place / "out" / "outputs" / "long.json.json").read_text())
    assert outputs[3] == {
        "instruction": "request 3",
        "output": f"good {'x' * 18}",
        "generator": "long.json",
        "dataset": "d",
    }
    annotations = json.loads((place / "out" / "annotations" / "long.json.json").read_text())
    assert set(annotations[0]) == {
        "instruction",
        "output_1",
        "generator_1",
        "output_2",
        "generator_2",
        "annotator",
        "preference",
    }
    assert annotations[0]["generator_1"] == "other"
    mean = sum(annotation["preference"] - 1 for annotation in annotations) / 40
    assert 100 * mean == pytest.approx(found.metric("win_rate").value)


def test_an_endpoint_judges_two_models_and_nothing_is_asked_twice(place, capsys):
    """Every tenth question gets nonsense, one never an answer, and each first attempt for "request 1" is refused."""

    def answer(body):
        text = body["messages"][-1]["content"]
        return "What a day!" if "request 20\n" in text else prefers_good(body)

    def faults(text, before):
        if "request 30\\n" in text:
            return "empty choices"
        return ("429", "500", "hang up")[len(text) % 3] if "request 1" in text and not before else None

    flags = ("good=long.json", "bad=bad.json", "--reference_outputs", "reference.json", "--swapped", 10)
    with serving(answer=answer, faults=faults) as server:
        prices = ("--judge_input_price", 1, "--judge_output_price", 2)
        assert evaluate(*flags, *endpoint_flags(server), *prices) == 0
        assert set(server.answered.values()) == {1}
        asked = server.asked.copy()
        assert (
            main(
                [
                    "evaluate",
                    "alpaca-eval",
                    *map(str, flags),
                    *map(str, endpoint_flags(server)),
                    "--output",
                    "out",
                    "--overwrite",
                ]
            )
            == 0
        )
        again = {text for text in asked if server.asked[text] > asked[text]}
        assert again
        assert all("request 30" in text for text in again), "only questions without an answer are asked again"
        assert server.keys == {f"Bearer {KEY}"}
    good, bad = read_results(place / "out").models
    assert bad.metric("win_rate").value < 5
    assert good.metric("no_verdict").value == pytest.approx(2 / 40)
    assert good.details["no_verdict"] == {"empty choice": 1, "unparsable verdict": 1}
    assert bad.change("win_rate").high < 0
    controlled = bad.change("length_controlled_win_rate")
    assert controlled.reference == "good"
    there, here = (model.metric("length_controlled_win_rate").value for model in (good, bad))
    assert controlled.value == pytest.approx(here - there)
    assert controlled.high < 0
    assert good.details["judge"]["kept"] > 30
    shown = capsys.readouterr()
    files = [file for file in place.rglob("*") if file.is_file()]
    assert len(files) > 80
    assert not any(KEY in file.read_text() for file in files)
    assert KEY not in shown.out + shown.err
    assert "no verdict on 2 of 40" in " ".join(shown.out.split())


def test_models_answer_and_the_first_may_be_the_reference(place, model):
    prompts = place / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in TEXTS))
    flags = ("--prompts", prompts, "--against_first", "--judge", "letters:length", "--max_new_tokens", 6)
    assert evaluate(f"one={model}", f"two={model}", *flags, "--temperature", 0) == 0
    result = read_results(place / "out")
    one, two = result.models
    assert (result.settings["prompts"], result.settings["reference"]) == ("prompts.jsonl", "one"), "no folders"
    assert [metric.name for metric in one.metrics] == ["average_length"]
    assert two.metric("win_rate").value == 50.0
    assert two.details["equal_outputs"] == len(TEXTS)
    assert one.fingerprint == two.fingerprint is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("no.json",), "no.json"),
        (("bad.json", "--judge", "gpt-4"), "judge must be `openai:MODEL`"),
        (("bad.json", "--judge", "openai:m", "--judge_key_variable", "NO_SUCH"), "NO_SUCH holds no key"),
        (("bad.json", "--judge", "openai:m", "--judge_url", "here"), "judge_url must be an http(s) address"),
        (("bad.json", "--judge", "letters:length", "--judge_logprobs"), "only an endpoint gives them"),
        (("bad.json", "--against_first", "--judge", "rules"), "name two references"),
        (("short.json",), "lack 35 of 40 prompts, the first on line 6"),
        (("broken.json",), "record 1: needs a text 'output'"),
        (("bad.json", "--prompts", "prompts.jsonl"), "jsonl:2: prompt must be text"),
        (("bad.json", "--difficulties", "bad.json"), "must be a JSON object from instruction, or instruction_sha"),
        (("bad.json", "--limit", "0"), "limit"),
        (("a=bad.json", "a=long.json"), "have one name"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(place, one_error, flags, message):
    write_outputs("short.json", ["x"] * 5, instructions=INSTRUCTIONS[:5])
    (place / "broken.json").write_text('[{"instruction": "request 0"}]')
    (place / "prompts.jsonl").write_text('{"instruction": "request 0"}\n{"prompt": 3}\n')
    given = flags if "--judge" in flags else (*flags, "--judge", "letters:length")
    assert evaluate(*given, "--reference_outputs", "reference.json") == 2
    assert message in one_error()
    assert not (place / "out").exists()


def test_a_judge_that_is_not_there_leaves_no_result(place, capsys):
    flags = ("--judge", "openai:m", "--judge_url", "http://127.0.0.1:9/v1", "--judge_attempts", 1)
    assert evaluate("bad.json", "--reference_outputs", "reference.json", *flags, "--limit", 3) == 2
    assert "answered none of 3 questions (6 no connection)" in capsys.readouterr().err
    assert not (place / "out" / "results.json").exists()
