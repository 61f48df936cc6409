"""Why the hub gave nothing, in a few words and without its address."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ropo.core.hub import hub_reason


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
