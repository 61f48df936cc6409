"""Our checkers against lm-eval's IFEval checkers on the real answers that ship with the demo."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from ropo.instructions import INSTRUCTIONS, satisfied

DATA = Path(__file__).parents[2] / "examples" / "data"
# name: (IFEval's class, how it takes our parameters); only where both mean the same
SHARED = {
    "at_most_words": ("NumberOfWords", lambda limit: {"num_words": limit + 1, "relation": "less than"}),
    "at_least_words": ("NumberOfWords", lambda limit: {"num_words": limit, "relation": "at least"}),
    "bullets": ("BulletListChecker", lambda count: {"num_bullets": count}),
    "json": ("JsonFormat", dict),
    "no_comma": ("CommaChecker", dict),
    "avoid_word": ("ForbiddenWords", lambda word: {"forbidden_words": [word]}),
    "end_with": ("EndChecker", lambda phrase: {"end_phrase": phrase}),
    "quoted": ("QuotationChecker", dict),
}


def real_answers() -> list[str]:
    lines = [line for name in ("train", "held_out") for line in (DATA / f"{name}.pairs.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return sorted({record[side][0]["content"] for record in records for side in ("chosen", "rejected")})


@pytest.fixture
def ifeval(monkeypatch):
    """Import the checkers alone: lm-eval's packages need much more than they do, and they would download NLTK data."""
    spec = find_spec("lm_eval")
    if spec is None:
        pytest.skip("lm-eval is not installed (pip install --no-deps lm-eval langdetect immutabledict nltk)")
    root = Path(spec.submodule_search_locations[0])
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(pytest.importorskip("nltk"), "download", lambda *args, **kwargs: False)
    return import_module("lm_eval.tasks.ifeval.instructions")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # lm-eval's and NLTK's own
def test_verdicts_agree(ifeval):
    answers = real_answers()
    assert len(answers) >= 500
    verdicts = set()
    for name, (theirs, translate) in SHARED.items():
        for parameters in INSTRUCTIONS[name].choices:
            checker = getattr(ifeval, theirs)(name)
            checker.build_description(**translate(**parameters))
            for answer in answers:
                ours = satisfied([{"name": name, "parameters": dict(parameters)}], answer)[0]
                assert ours == bool(checker.check_following(answer)), (name, parameters, answer)
                verdicts.add((name, ours))
    assert len(verdicts) >= 2 * len(SHARED) - 3, "nearly all instructions must be seen both satisfied and not"
