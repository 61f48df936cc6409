"""Which judge a command line names."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from ropo.core.errors import UserError
from ropo.core.settings import settings_from
from ropo.judging.endpoint import EndpointChat
from ropo.judging.local import LocalChat
from ropo.judging.options import JudgeOptions, add_judge_arguments, load_judge
from ropo.judging.scores import RuleJudge
from tests.tiny.sampled import save_tiny


def settings(*flags) -> JudgeOptions:
    parser = argparse.ArgumentParser()
    add_judge_arguments(parser, 7)
    return settings_from(JudgeOptions, parser.parse_args([str(flag) for flag in flags]))


def load(*flags, batch_size=1, folder=Path("unused")):
    return load_judge(settings(*flags), folder, batch_size, 7)


def test_every_flag_reaches_the_endpoint(monkeypatch):
    monkeypatch.setenv("MY_KEY", "k")
    values = {"url": "http://h/v1", "key_variable": "MY_KEY", "max_tokens": 9, "concurrency": 3, "attempts": 2}
    values |= {"timeout": 5.0, "longest_wait": 4.0, "input_price": 1.0, "output_price": 2.0}
    assert {f"judge_{name}" for name in values} == set(JudgeOptions.model_fields) - {"judge", "judge_logprobs"}
    flags = [part for name, value in values.items() for part in (f"--judge_{name}", value)]
    judge = load("--judge", "openai:m", "--judge_logprobs", *flags)
    assert (judge.name, judge.longest) == ("openai:m", 9)
    chat = judge.chat
    assert isinstance(chat, EndpointChat)
    assert {name: getattr(chat.options, f"judge_{name}") for name in values} == values
    assert chat.options.judge_logprobs
    assert (str(chat._client.base_url), chat._client.timeout) == ("http://h/v1/", 5.0)
    assert "k" not in repr(chat.identity).replace("key", "").replace("tokens", "")


def test_without_flags_everything_has_its_default():
    assert settings("--judge", "rules") == JudgeOptions(judge="rules")
    parser = argparse.ArgumentParser()
    add_judge_arguments(parser, 7, but=("judge", "judge_logprobs"))
    assert "judge" not in vars(parser.parse_args([]))


def test_the_other_kinds(tmp_path):
    source = save_tiny(tmp_path)
    local = load("--judge", f"transformers:{source}", batch_size=5)
    assert isinstance(local.chat, LocalChat)
    assert (local.longest, local.chat.batch_size, local.chat.logprobs) == (7, 5, False)
    assert load("--judge", f"transformers:{source}", "--judge_logprobs").chat.logprobs
    assert isinstance(load("--judge", "rules"), RuleJudge)
    function = load("--judge", "statistics:mean")
    assert (function.name, function.longest, function.store) == ("statistics:mean", None, None)
    with pytest.raises(UserError, match="reward model no/such: cannot be loaded"):
        load("--judge", "reward:no/such")


@pytest.mark.parametrize(("given", "longest"), [((), 1024), (("--judge_max_tokens", "5"), 5)])
def test_behind_an_endpoint_nobody_knows_whether_a_model_thinks(monkeypatch, given, longest):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert load("--judge", "openai:m", *given).longest == longest


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
        load(*flags)
