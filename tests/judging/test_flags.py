"""Which judge a command line names."""

from __future__ import annotations

import argparse

import pytest

from ropo.core.errors import UserError
from ropo.evaluation.settings import settings_from
from ropo.judging.endpoint import EndpointChat
from ropo.judging.flags import JudgeSettings, add_judge_arguments, load_judge
from ropo.judging.local import LocalChat
from ropo.judging.scorers import FunctionScorer, RuleScorer
from tests.lm.sampling.tiny import save_tiny


def settings(*flags) -> JudgeSettings:
    parser = argparse.ArgumentParser()
    add_judge_arguments(parser, max_tokens=7)
    return settings_from(JudgeSettings, parser.parse_args([str(flag) for flag in flags]))


def test_every_flag_reaches_the_endpoint(monkeypatch):
    monkeypatch.setenv("MY_KEY", "k")
    values = {"url": "http://h/v1", "key_variable": "MY_KEY", "max_tokens": 9, "concurrency": 3, "attempts": 2}
    values |= {"timeout": 5.0, "longest_wait": 4.0}
    flags = [part for name, value in values.items() for part in (f"--judge_{name}", value)]
    chat = load_judge(settings("--judge", "openai:m", "--judge_logprobs", *flags), 1, 7)
    assert isinstance(chat, EndpointChat)
    assert chat.settings.model == "m"
    assert chat.settings.logprobs
    assert {name: getattr(chat.settings, name) for name in values} == values
    assert "k" not in repr(chat.identity).replace("key", "").replace("tokens", "")


def test_the_other_kinds(tmp_path):
    local = load_judge(settings("--judge", f"transformers:{save_tiny(tmp_path)}"), 5, 7)
    assert isinstance(local, LocalChat)
    assert (local.max_tokens, local.batch_size) == (7, 5)
    assert isinstance(load_judge(settings("--judge", "rules"), 1, 7), RuleScorer)
    assert isinstance(load_judge(settings("--judge", "statistics:mean"), 1, 7), FunctionScorer)
    with pytest.raises(UserError, match="reward model no/such: cannot be loaded"):
        load_judge(settings("--judge", "reward:no/such"), 1, 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--judge", "openai:"), "judge must be"),
        (("--judge", "transformers"), "judge must be"),
        (("--judge", "rules", "--judge_concurrency", 0), "judge_concurrency"),
        (("--judge", "rules", "--judge_timeout", 0), "judge_timeout"),
        (("--judge", "rules", "--judge_input_price", -1), "judge_input_price"),
        (("--judge", "rules", "--judge_logprobs"), "only an endpoint gives them"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(UserError, match=message):
        load_judge(settings(*flags), 1, 7)
