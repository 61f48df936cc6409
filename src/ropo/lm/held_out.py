"""Held-out pairs, read and tokenised for a model as its training reads and tokenises them."""

from __future__ import annotations

__all__ = [
    "BETA",
    "HeldOutPairs",
    "first_trained",
    "read_held_out",
    "trained_limits",
    "trained_otherwise",
    "trained_plainly",
    "trained_with",
    "wraps_prompts",
]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.kept import content_key
from ropo.core.record import FILE_NAME, read_record
from ropo.lm.adapters import adapter_config_of, is_adapter
from ropo.lm.capacity import cap_length
from ropo.lm.loading import load_shapes
from ropo.lm.strength import split_strength
from ropo.lm.templating import unread_lines
from ropo.lm.tokens import Limits, TokenPair, holds_templated_prompt, tokenize_pair
from ropo.preferences import PreferenceData, load_preferences

_MAX_LENGTH = 1024  # of trl.DPOConfig, as is the next
BETA = 0.1


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs and their tokens, and what was done with the others.

    Args:
        data: What was read.
        records: The pairs that are used.
        tokens: Their tokens, of any length.
        limits: Where prompt and answer are to be cut.
        cut: Number of these pairs that are longer.
        without_room: Number of pairs left out because `max_length` leaves nothing of an answer.
        without_tokens: Number of pairs left out because prompt or answer has no tokens of its own.
        unread: What the chat template leaves out of the records, in lines.
        templated: Number of prompts that went through the chat template before they were written down.
    """

    data: PreferenceData
    records: list[dict[str, Any]]
    tokens: list[TokenPair]
    limits: Limits
    cut: int
    without_room: int
    without_tokens: int
    unread: list[str]
    templated: int

    def counts(self) -> dict[str, int]:
        """Count the pairs, and what was left out of the records that were read up to the last one of them."""
        used = len(self.records)
        return {"pairs": used, **self.data.dropped_before(used + self.left_out)}

    @property
    def left_out(self) -> int:
        """Number of pairs up to the last one used that are not."""
        return self.without_room + self.without_tokens

    def content(self) -> dict[str, Any]:
        """Return what a model's scores of the pairs depend on beside the model, to keep them by."""
        tokens = [[list(pair.prompt), list(pair.chosen), list(pair.rejected)] for pair in self.tokens]
        return {"tokens": content_key(tokens), "limits": asdict(self.limits)}

    def answer_lengths(self) -> Int[np.ndarray, "pairs 2"]:
        """Return the tokens of chosen and rejected answers as they are scored."""
        return np.array([[len(answer) for _, answer in self.limits.cut(pair)] for pair in self.tokens])

    def only(self, places: Collection[str]) -> HeldOutPairs:
        """Return the pairs of these places in their files."""
        kept = [number for number, record in enumerate(self.records) if record["where"] in places]
        left_out = self.without_room + len(self.records) - len(kept)
        records, tokens = [self.records[i] for i in kept], [self.tokens[i] for i in kept]
        return replace(self, records=records, tokens=tokens, without_room=left_out)

    def notes(self) -> Iterator[str]:
        """Say what a reader of the numbers has to know about the pairs."""
        used = len(self.records)
        of = "" if used + self.left_out == len(self.data) else f"{used} of "
        yield f"{of}{_pairs(len(self.data) if of else used)}, {self.data.reading}"
        if self.without_room:
            yield f"{_pairs(self.without_room)} left out, whose prompt fills max_length {self.limits.max_length}"
        if self.without_tokens:
            yield f"{_pairs(self.without_tokens)} left out, whose prompt or an answer has no tokens, as in training"
        if self.cut:
            yield f"{_pairs(self.cut)} cut to max_length {self.limits.max_length}, as in training"
        yield from self.unread
        if self.templated:
            yield f"{self.templated} prompts went through the chat template already and are used as they are"


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"


def read_held_out(
    source: str,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    most: int | None = None,
    plain_prompts: bool = False,
) -> HeldOutPairs:
    """Read held-out pairs for a model.

    Args:
        source: As in `ropo.preferences.load_preferences`.
        split: As there.
        tokenizer: The model's own; where it has a chat template, a text prompt becomes the user's turn.
        limits: Where prompt and answer are cut.
        most: Pairs to use, the first ones; None for all.
        plain_prompts: Whether text prompts stay as they are, past the chat template.

    Returns:
        The pairs.

    Raises:
        UserError: If a record is malformed, the chat template refuses it, or no pair is left.

    Cost: two thousand pairs per second.
    """
    data = load_preferences(source, split, wraps_prompts(tokenizer, plain_prompts))
    records: list[dict[str, Any]] = []
    tokens: list[TokenPair] = []
    without_room = without_tokens = 0
    for record in data.pairs:
        if len(records) == most:
            break
        pair = tokenize_pair(tokenizer, record, f"data {record['where']}")
        if not pair.is_complete:
            without_tokens += 1
        elif limits.leave_room(pair):
            records.append(record)
            tokens.append(pair)
        else:
            without_room += 1
    if not records and without_tokens:
        raise UserError(
            f"data {source}: {without_tokens} of {without_tokens + without_room} pairs have no tokens of prompt or "
            "answer, and no other has room in max_length; give longer prompts"
        )
    if not records:
        raise UserError(
            f"max_length: {limits.max_length} tokens leave nothing of the answers in all {without_room} pairs of "
            f"{source}; raise --max_length"
        )
    cut = sum(limits.cut(pair) != Limits().cut(pair) for pair in tokens)
    templated = sum(holds_templated_prompt(tokenizer, record) for record in records)
    unread = unread_lines(tokenizer, records)
    return HeldOutPairs(data, records, tokens, limits, cut, without_room, without_tokens, unread, templated)


def wraps_prompts(tokenizer: PreTrainedTokenizerBase, plain_prompts: bool) -> bool:
    """Tell whether text prompts become the user's turn: where there is a chat template and nobody said otherwise."""
    return tokenizer.chat_template is not None and not plain_prompts


def trained_limits(source: str, max_length: int | None = None, models: Sequence[str] = ()) -> Limits:
    """Return where a model's training cut its sequences; TRL's default where there is no record of it.

    Args:
        source: As in `trained_with`.
        max_length: Another length to cut at; None for that of training.
        models: All that is measured, `source` alone by default: sequences end where the positions of any of them end,
            as training cuts them, so that all are measured on the same tokens.

    Cost: a model of each without weights.
    """
    mode = trained_with(source, "truncation_mode", "keep_start")
    longest = trained_with(source, "max_length", _MAX_LENGTH) if max_length is None else max_length
    for each in dict.fromkeys(models or [source]):
        longest = cap_length(load_shapes(each), longest, adapter_config_of(each) if is_adapter(each) else None)
    return Limits(longest, mode)


def first_trained(sources: Sequence[str]) -> str:
    """Return the first of some models that has a record of its training, or else the first of all."""
    recorded = (each for each in sources if (Path(split_strength(each)[0]) / FILE_NAME).is_file())
    return next(recorded, sources[0])


def trained_otherwise(models: Mapping[str, str], limits: Limits, beta: float, plain_prompts: bool) -> Iterator[str]:
    """Say in a line which models were trained otherwise than all of them are measured, if there are such.

    Args:
        models: Sources as in `trained_with`, by name.
        limits: Where sequences are cut in the measurement.
        beta: Its strength of the pull to the reference.
        plain_prompts: Whether text prompts are measured past the chat template.
    """
    measured = {"beta": beta, "max_length": limits.max_length, "truncation_mode": limits.truncation_mode}
    how = [f"beta {beta:g}", f"max_length {limits.max_length} ({limits.truncation_mode})"]
    flags = ["--beta", "--max_length"]
    others = []
    for name, source in models.items():
        trained = {option: trained_with(source, option, value) for option, value in measured.items()}
        differing = [f"{option} {value}" for option, value in trained.items() if value != measured[option]]
        if (plainly := trained_plainly(source, plain_prompts)) != plain_prompts:
            differing.append(_template(plainly))
            how[2:], flags[2:] = [_template(plain_prompts)], ["--plain_prompts"]
        if differing:
            others.append(f"{name} was trained with {' and '.join(differing)}")
    if others:
        measure = f"everything here is measured with {' and '.join(how)}, which {' and '.join(flags)} set"
        yield f"{'; '.join(others)}; {measure}"


def _template(plain_prompts: bool) -> str:
    return f"text prompts {'past' if plain_prompts else 'in'} the chat template"


def trained_with(source: str, option: str, default: Any) -> Any:
    """Return the trainer's option that a model of `ropo train` was trained with, such as `beta`.

    Args:
        source: Whatever `ropo.lm.loading.load_policy` takes.
        option: Its name in `trl.DPOConfig`.
        default: For a model that has no record of such a run.
    """
    return _recorded(source).get("trainer", {}).get(option, default)


def trained_plainly(source: str, default: bool = False) -> bool:
    """Tell whether a model of `ropo train` was trained with text prompts past the chat template (`--plain_prompts`).

    Args:
        source: As in `trained_with`.
        default: For a model that has no record of such a run.
    """
    return bool(_recorded(source).get("plain_prompts", default))


def _recorded(source: str) -> dict[str, Any]:
    """Return the options in the record of a run of `ropo train`; none where there is no record."""
    folder = Path(split_strength(source)[0])
    return read_record(folder).config if (folder / FILE_NAME).is_file() else {}
