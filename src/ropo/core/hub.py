"""Say in a few words why the hub gave nothing."""

from __future__ import annotations

__all__ = ["hub_reason"]

from collections.abc import Iterator

_LONGEST = 160  # characters of somebody else's message
_NO_ANSWER = {
    *("ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError"),
    "OfflineModeIsEnabled",
}


def hub_reason(error: BaseException) -> str:
    """Return why something did not come from the hub, from what its client or a library raised.

    Libraries name the hub's address alike for a name that it does not know, for no network and for HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants

    kinds = {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}
    said = str(error).strip()
    if "HFValidationError" in kinds:
        return "it could not be called so there"
    if "GatedRepoError" in kinds:
        return "its terms must be accepted there; then log in with `hf auth login`"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return "it knows no such name, or keeps it private: `hf auth login`"
    if kinds & _NO_ANSWER or "huggingface.co" in said:
        offline = constants.HF_HUB_OFFLINE or "OfflineModeIsEnabled" in kinds
        asked = "was not asked, as HF_HUB_OFFLINE is set" if offline else "gave no answer, or has none of its files"
        return f"it {asked}; its cache on this machine was looked into"
    first = said.splitlines()[0] if said else type(error).__name__
    return f"{first:.{_LONGEST}}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
