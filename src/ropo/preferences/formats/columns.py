"""What a column is, by its name: content that must be read, a label that may be left out, or media, which we refuse."""

from __future__ import annotations

__all__ = ()

import re
from collections.abc import Collection
from typing import Any

# The columns that may be the question, each alone.
QUESTIONS = ("prompt", "instruction", "question", "query", "conversations", "conversation", "messages")
# What stands beside any question, and belongs to what the model is given.
BESIDE = ("system", "system_prompt", "history", "tools", "chat_template_kwargs")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")

_LONGEST_LABEL = 200  # characters; a longer text, or one of several lines, is content whatever its column is called
_IDS = """
id uid uuid idx index hash key prompt_id question_id sample_id example_id record_id row_id conversation_id conv_id
dialogue_id message_id __index_level_0__
"""
_ORIGINS = """
source sources dataset dataset_name data_source origin subset config split version domain category categories topic
type task task_type language lang locale license url timestamp created_at date generator annotator annotator_id model
models model_name tags scorer
"""
_NUMBERS = """
score scores rating ratings reward rewards rank ranks rank_str margin delta delta_score score_diff difficulty confidence
agreement preference_strength length num_tokens n_turns num_turns turn_count
"""
_LABELS = frozenset(["", "unnamed: 0", *f"{_IDS} {_ORIGINS} {_NUMBERS}".split()])
_OF_AN_ANSWER = (
    r"(avg[-_])?(score|rating|reward|rank|model|policy|generator|source|id|tokens|length|logps?|logprobs?)s?"
)
_ANSWERS = r"(chosen|rejected)"
_ABOUT_ANSWERS = re.compile(rf"({_ANSWERS}[-_]{_OF_AN_ANSWER}|{_OF_AN_ANSWER}[-_]{_ANSWERS})")
_SET_ASIDE = re.compile(r"(meta|metadata|_meta|extra_info)|(meta|metadata)_.*")


def beside(columns: Collection[str]) -> tuple[str, ...]:
    """Return what may stand beside the question among some columns: an Alpaca instruction has an `input` of its own."""
    return ("input", *BESIDE) if "instruction" in columns else BESIDE


def says_nothing(value: Any) -> bool:
    """Tell whether leaving a value out loses nothing."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, list | dict) and not value)
    )


def is_label(name: str, value: Any) -> bool:
    """Tell whether a column is well-known metadata: an id, an origin, a number about the answers, or named as such."""
    name = name.lower()
    if _SET_ASIDE.fullmatch(name):
        return True
    return (name in _LABELS or _ABOUT_ANSWERS.fullmatch(name) is not None) and _is_short(value)


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_short(each) for each in value)
    if isinstance(value, str):
        return len(value) <= _LONGEST_LABEL and "\n" not in value.strip()
    return not isinstance(value, dict | bytes)
