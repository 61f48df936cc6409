"""Our checkers against lm-eval's IFEval checkers on real answers: those of the shipped pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ropo.instructions import INSTRUCTIONS, satisfied

DATA = Path(__file__).parents[2] / "experiments" / "verifiable_pairs" / "full"
# name: (IFEval's class, how it takes our parameters); only where both mean the same
SHARED = {
    "at_most_words": ("NumberOfWords", lambda limit: {"num_words": limit + 1, "relation": "less than"}),
    "at_least_words": ("NumberOfWords", lambda limit: {"num_words": limit, "relation": "at least"}),
    "bullets": ("BulletListChecker", lambda count: {"num_bullets": count}),
    "no_comma": ("CommaChecker", dict),
    "avoid_word": ("ForbiddenWords", lambda word: {"forbidden_words": [word]}),
    "end_with": ("EndChecker", lambda phrase: {"end_phrase": phrase}),
    "quoted": ("QuotationChecker", dict),
}
# Where IFEval asks for a little more or less, in the way that the test says.
LANGUAGE_CODES = {"French": "fr", "German": "de", "Italian": "it", "Spanish": "es"}
SHARED_BUT = {
    "json": ("JsonFormat", dict),
    "lower_case": ("LowercaseLettersEnglishChecker", dict),
    "upper_case": ("CapitalLettersEnglishChecker", dict),
    "include_word": ("KeywordChecker", lambda word: {"keywords": [word]}),
    "language": ("ResponseLanguageChecker", lambda language: {"language": LANGUAGE_CODES[language]}),
}


def real_answers() -> list[str]:
    lines = [line for name in ("train", "test") for line in (DATA / f"{name}.pairs.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return sorted({record[side][0]["content"] for record in records for side in ("chosen", "rejected")})


@pytest.fixture
def ifeval(monkeypatch):
    """Import the checkers alone: lm-eval's packages need much more than they do, and they would download NLTK data."""
    spec = find_spec("lm_eval")
    missing = [name for name in ("lm_eval", "langdetect", "immutabledict", "nltk") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (pip install --no-deps lm-eval langdetect immutabledict nltk)")
    root = Path(spec.submodule_search_locations[0])
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr("nltk.download", lambda *args, **kwargs: False)
    return import_module("lm_eval.tasks.ifeval.instructions")


@pytest.fixture
def detect(monkeypatch):
    """Let langdetect, which draws at random and is slow, judge each answer once."""
    langdetect = pytest.importorskip("langdetect", reason="langdetect is not installed")
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 0)
    known = cache(langdetect.detect)
    monkeypatch.setattr(langdetect, "detect", known)
    return known


def verdicts_on(ifeval, name: str, parameters: Mapping[str, Any], answers: list[str]) -> list[tuple[str, bool, bool]]:
    """Return each answer with our verdict and theirs."""
    theirs, translate = (SHARED | SHARED_BUT)[name]
    checker = getattr(ifeval, theirs)(name)
    checker.build_description(**translate(**parameters))
    uses = [{"name": name, "parameters": dict(parameters)}]
    return [(answer, satisfied(uses, answer)[0], bool(checker.check_following(answer))) for answer in answers]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # lm-eval's and NLTK's own
def test_verdicts_agree(ifeval):
    answers = real_answers()
    assert len(answers) >= 500
    seen = set()
    for name in SHARED:
        for parameters in INSTRUCTIONS[name].choices:
            for answer, ours, theirs in verdicts_on(ifeval, name, parameters, answers):
                assert ours == theirs, (name, parameters, answer)
                seen.add((name, ours))
    assert len(seen) >= 2 * len(SHARED) - 3, "nearly all instructions must be seen both satisfied and not"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["lower_case", "upper_case"])
def test_case_verdicts_agree_on_what_langdetect_calls_english(ifeval, detect, name):
    """IFEval also asks langdetect whether the answer is English, which it denies of some that are."""
    original = real_answers()[:300]
    answers = original + [text.lower() for text in original] + [text.upper() for text in original]
    found = verdicts_on(ifeval, name, {}, answers)
    assert len(found) >= 500
    assert {ours for _, ours, _ in found} == {True, False}
    for answer, ours, theirs in found:
        assert ours == theirs or (ours and detect(answer) != "en"), answer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_json_verdicts_agree_but_on_what_is_no_object(ifeval):
    """IFEval takes any JSON, such as an answer in quotation marks; our phrasings ask for an object or its fields."""
    found = verdicts_on(ifeval, "json", {}, [*real_answers(), '{"a": 1}', '```json\n{"a": 1}\n```'])
    assert {(ours, theirs) for _, ours, theirs in found} == {(True, True), (False, False), (False, True)}
    for answer, ours, theirs in found:
        assert ours == theirs or not answer.strip("`json\n ").startswith("{"), answer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_included_words_agree_but_inside_longer_words(ifeval):
    """IFEval finds "important" in "importantly" too."""
    answers = real_answers()
    seen = set()
    for parameters in INSTRUCTIONS["include_word"].choices:
        for answer, ours, theirs in verdicts_on(ifeval, "include_word", parameters, answers):
            inside_only = not ours and parameters["word"] in answer.lower()
            assert ours == theirs or inside_only, (parameters, answer)
            seen.add(ours)
    assert seen == {True, False}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_languages_agree_nearly_always(ifeval, detect):
    """On lists of numbers and names langdetect guesses: 69 of 10,228 verdicts differed on other answers."""
    answers = real_answers()[:600]
    found = [
        each
        for parameters in INSTRUCTIONS["language"].choices
        for each in verdicts_on(ifeval, "language", parameters, answers)
    ]
    assert len(found) >= 2000
    assert sum(ours != theirs for _, ours, theirs in found) <= 0.01 * len(found)
