"""Why the hub gave nothing, in a few words and without its address."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ropo.core.hub import hub_reason, no_answer, tell_asking


class GatedRepoError(Exception):
    """As the hub's client names it."""


class RepositoryNotFoundError(Exception):
    """As the hub's client names it."""


@pytest.mark.parametrize(
    ("cause", "offline", "reason"),
    [
        (LocalEntryNotFoundError("x"), True, "it was not asked, as HF_HUB_OFFLINE is set; its cache"),
        (LocalEntryNotFoundError("x"), False, "it gave no answer, or has none of its files; its cache"),
        (OfflineModeIsEnabled("x"), False, "it was not asked, as HF_HUB_OFFLINE is set"),
        (GatedRepoError("x"), False, "its terms must be accepted there"),
        (RepositoryNotFoundError("x"), False, "it knows no such name, or keeps it private"),
        (HFValidationError("x"), False, "it could not be called so there"),
        (None, True, "it was not asked"),
    ],
)
def test_why_the_hub_gave_nothing(cause, offline, reason, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    error = OSError("We couldn't connect to 'https://huggingface.co' to load the files")
    error.__cause__ = cause
    assert hub_reason(error).startswith(reason)
    assert "huggingface.co" not in hub_reason(error)


def test_another_reason_is_told_as_it_is():
    assert hub_reason(ValueError("no such\nmodel type")) == "no such"


@pytest.mark.parametrize(
    ("name", "offline", "said"),
    [("somebody/new-model", False, 1), ("somebody/new-model", True, 0), ("not/a/hub/name", False, 0)],
)
def test_that_the_hub_is_asked_is_said_once(name, offline, said, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    tell_asking.cache_clear()
    tell_asking("model", name)
    tell_asking("model", name)
    assert [f"model {name}: not on this machine, asking the hub" in line for line in caplog.messages] == [True] * said


def test_what_is_in_the_cache_is_not_told(tmp_path, monkeypatch, caplog):
    snapshot = tmp_path / "models--somebody--known" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    tell_asking.cache_clear()
    tell_asking("model", "somebody/known")
    assert not caplog.messages


def test_a_hub_out_of_reach_is_told_from_one_that_knows_no_such_name():
    assert no_answer(LocalEntryNotFoundError("x"))
    assert not no_answer(RepositoryNotFoundError("x"))
