"""What a model is asked in the two turns of a question, and how."""

from __future__ import annotations

from pathlib import Path

from ropo.evaluation.contestants import Contestant
from ropo.evaluation.mt_bench import measure
from ropo.evaluation.mt_bench.questions import Question
from ropo.evaluation.suites import Workplace
from ropo.lm.sampling import Answer

QUESTIONS = [Question(1, "writing", ("w1", "w2")), Question(2, "math", ("m1", "m2")), Question(3, "stem", ("s1", "s2"))]


def test_the_second_turn_follows_the_first_answer(monkeypatch):
    asked = []

    def answer_prompts(contestant, prompts, settings, *rest):
        for prompt in prompts:
            asked.append(([turn["content"] for turn in prompt.turns], settings.temperature, settings.seed))
        return [[Answer(f"said {prompt.turns[-1]['content']}", (5, 2), True)] for prompt in prompts]

    monkeypatch.setattr(measure, "answer_prompts", answer_prompts)
    place = Workplace(Path("nowhere"), seed=5)
    found = measure.answer_questions(Contestant("m", "org/m"), QUESTIONS, 9, place)
    assert found == {1: ["said w1", "said w2"], 2: ["said m1", "said m2"], 3: ["said s1", "said s2"]}
    first, second = asked[:3], asked[3:]
    assert [turns for turns, _, _ in first] == [["m1"], ["s1"], ["w1"]]
    assert [turns for turns, _, _ in second] == [
        ["m1", "said m1", "m2"],
        ["s1", "said s1", "s2"],
        ["w1", "said w1", "w2"],
    ]
    assert [temperature for _, temperature, _ in asked] == [0.0, 0.1, 0.7] * 2
    assert len({seed for _, _, seed in first}) == len({seed for _, _, seed in second}) == 1
    assert first[0][2] != second[0][2], "the second turn has random numbers of its own"
