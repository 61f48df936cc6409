"""Say that the hub is asked, and in a few words why it gave nothing."""

from __future__ import annotations

__all__ = ["hub_reason", "no_answer", "tell_asking"]

import functools
import logging
from collections.abc import Iterator

logger = logging.getLogger(__name__)

_LONGEST = 160  # characters of somebody else's message
_NO_ANSWER = {
    *("ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError"),
    "OfflineModeIsEnabled",
}


@functools.cache
def tell_asking(what: str, name: str) -> None:
    """Say once that the hub is asked for a model or data: without network its client tries for a minute, silently.

    Nothing is said where the hub is not asked, or where the configuration of a model of that name is in its cache.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return  # no name of the hub's: the loader says so at once
    if not constants.HF_HUB_OFFLINE and not cached:
        logger.warning(
            f"{what} {name}: not on this machine, asking the hub; without network that takes a minute or two, "
            "HF_HUB_OFFLINE=1 ends it"
        )


def no_answer(error: BaseException) -> bool:
    """Tell whether the hub could not be reached, so that asking it again is no use."""
    return bool(_kinds(error) & _NO_ANSWER)


def hub_reason(error: BaseException) -> str:
    """Return why something did not come from the hub, from what its client or a library raised.

    Libraries name the hub's address alike for a name that it does not know, for no network and for HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants

    kinds = _kinds(error)
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


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
