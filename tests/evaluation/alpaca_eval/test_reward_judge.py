"""A reward model as the judge of `alpaca-eval`, as a user runs it: a real sequence classifier, tiny."""

from __future__ import annotations

import json
import shutil

import pytest

from ropo.cli.main import main
from ropo.evaluation.alpaca_eval import metrics
from ropo.evaluation.results import read_results
from ropo.judging.scores import RewardModel
from tests.tiny.reward import rewards, save_tiny_reward
from tests.tiny.tokenizer import WORDS

PROMPTS = [f"{first} {second}" for first in WORDS[:6] for second in WORDS[:5]]
SWAPPED = 8


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metrics, "REFITS", 50)  # enough to see an interval, and quick
    for name, step in (("reference", 3), ("mine", 5)):
        write(
            f"{name}.json",
            [" ".join(WORDS[(n + i) * step % 16] for i in range(n % 7 + 1)) for n in range(len(PROMPTS))],
        )
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_reward(tmp_path_factory.mktemp("judge") / "rm")


def write(name, texts):
    records = [{"instruction": asked, "output": text} for asked, text in zip(PROMPTS, texts, strict=True)]
    with open(name, "w") as file:
        json.dump(records, file)


def evaluate(model, *flags):
    judged = ("mine.json", "--reference_outputs", "reference.json", "--judge", f"reward:{model}")
    return main(["evaluate", "alpaca-eval", *judged, "--swapped", str(SWAPPED), "--output", "out", *flags])


def judge_of(place):
    return read_results(place / "out").models[0].details["judge"]


def test_every_verdict_is_the_classifiers_and_is_kept(place, model, monkeypatch):
    assert evaluate(model) == 0
    mine, reference = (json.loads((place / f"{name}.json").read_text()) for name in ("mine", "reference"))
    wanted = []
    for one, other in zip(mine, reference, strict=True):
        a, b = rewards(model, one["instruction"], [one["output"], other["output"]])
        wanted.append(0.5 if one["output"] == other["output"] else float(a > b))
    assert {0.0, 1.0} <= set(wanted)
    annotations = json.loads((place / "out" / "annotations" / "mine.json.json").read_text())
    assert [each["preference"] - 1 for each in annotations] == wanted
    assert {each["annotator"] for each in annotations} == {"reward:rm"}
    (found,) = read_results(place / "out").models
    assert found.metric("win_rate").value == pytest.approx(100 * sum(wanted) / len(wanted))
    assert found.metric("order_agreement").value == 1.0
    asked = sum(win != 0.5 for win in wanted) + SWAPPED
    assert (judge_of(place)["calls"], judge_of(place)["kept"]) == (asked, 0)

    monkeypatch.setattr(RewardModel, "__call__", lambda *_: pytest.fail("a kept verdict was made again"))
    copy = shutil.copytree(model, place / "copy")
    assert evaluate(copy, "--overwrite") == 0
    assert (judge_of(place)["calls"], judge_of(place)["kept"]) == (0, asked)


def test_a_killed_run_repeats_no_verdict_and_other_weights_get_their_own(place, model, monkeypatch):
    score, scored = RewardModel.__call__, []

    def watched(self, prompt, answers):
        if len(scored) == 9:
            raise KeyboardInterrupt
        scored.append((prompt.line, *answers))
        return score(self, prompt, answers)

    monkeypatch.setattr(RewardModel, "__call__", watched)
    assert evaluate(model) == 1
    assert not (place / "out" / "results.json").exists()
    scored.insert(0, None)  # one more entry, so that it never stops again
    assert evaluate(model) == 0
    assert judge_of(place)["kept"] == 9
    assert len(scored) == len(set(scored))
    whole = len(scored) - 1
    assert judge_of(place)["calls"] == whole - 9
    assert evaluate(save_tiny_reward(place / "rm2", seed=1), "--overwrite") == 0
    assert (judge_of(place)["calls"], judge_of(place)["kept"]) == (whole, 0)


def test_a_classifier_of_two_classes_is_refused_before_anything_is_sampled(place, capsys):
    assert evaluate(save_tiny_reward(place / "two", outputs=2)) == 2
    assert "must have 1 output, got 2" in capsys.readouterr().err
    assert not (place / "out").exists()
