"""Write the pairs that every run of a comparison reads: training, validation and test, one file each."""

from __future__ import annotations

__all__ = ["PreparedData", "prepare_data"]

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ropo.comparison.places import typed
from ropo.comparison.recipe import Budget, DataSet, PairSource, Recipe
from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.diagnostics.answers import mean
from ropo.lm.loading import load_tokenizer
from ropo.lm.tokens import Limits, tokenize_pair
from ropo.preferences import load_preferences
from ropo.preferences.data import Pair, as_conversation

_TOKENS_FROM = 512  # training pairs that the mean length is taken over, from the first on


@dataclass(frozen=True)
class PreparedData:
    """The files of one data set, and the optimizer steps that its budget allows.

    Attributes:
        name: The data set's.
        train: File of the training pairs.
        validation: File of the validation pairs, or None.
        test: File of the held-out pairs.
        prompts: File of the held-out prompts, or None.
        steps: Optimizer steps of a run.
        content: A hash of training and validation pairs.
        held_out: A hash of test pairs and prompts.
        notes: What a reader of the numbers has to know.
    """

    name: str
    train: str
    validation: str | None
    test: str
    prompts: str | None
    steps: int
    content: str
    held_out: str
    notes: tuple[str, ...]


def prepare_data(recipe: Recipe, number: int, folder: Path) -> PreparedData:
    """Read, split and write one data set.

    Raises:
        UserError: If pairs are malformed, or a split leaves nothing.
    """
    data = recipe.data[number]
    train = _read(data.train)
    validation = _read(data.validation) if data.validation else []
    if data.validation_share is not None:
        train, validation = split_by_prompt(train, data.validation_share, recipe.split_seed)
    test = _read(data.test)
    texts = {"train": _lines(train), "validation": _lines(validation), "test": _lines(test)}
    files = {name: folder / f"{name}.jsonl" for name, text in texts.items() if text}
    for name, file in files.items():
        write_atomically(file, texts[name])
    return PreparedData(
        name=data.name,
        train=typed(files["train"]),
        validation=typed(files["validation"]) if validation else None,
        test=typed(files["test"]),
        prompts=data.prompts,
        steps=steps_of(recipe.budget, train, recipe.model, not recipe.training.get("plain_prompts")),
        content=_hash(texts["train"], texts["validation"]),
        held_out=_hash(texts["test"], _content(data.prompts)),
        notes=_notes(data, train, validation, test),
    )


def split_by_prompt(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into training and validation, to which a share of the prompts goes, at least one.

    Raises:
        UserError: If no prompt is left for training.
    """
    prompts = list(dict.fromkeys(_prompt_key(pair) for pair in pairs))
    taken = max(1, round(share * len(prompts)))
    if taken >= len(prompts):
        raise UserError(f"validation_share: {share:g} of {len(prompts)} prompts leaves none to train on; lower it")
    chosen = set(random.Random(seed).sample(prompts, taken))
    train, validation = ([pair for pair in pairs if (_prompt_key(pair) in chosen) == side] for side in (False, True))
    return train, validation


def steps_of(budget: Budget, pairs: Sequence[Pair], model: str, wrap: bool) -> int:
    """Return the optimizer steps that use up a budget, at least one.

    Tokens are those of packed training, a shared prompt once; their mean over the first pairs stands for all.
    """
    if budget.pairs is not None:
        return math.ceil(budget.pairs / budget.batch_size)
    assert budget.tokens is not None
    tokenizer = load_tokenizer(model)
    chat = wrap and tokenizer.chat_template is not None
    tokens = []
    for pair in pairs[:_TOKENS_FROM]:
        cut = tokenize_pair(tokenizer, as_conversation(pair) if chat and isinstance(pair["prompt"], str) else pair)
        tokens.append(Limits().packed_tokens(len(cut.prompt), len(cut.chosen), len(cut.rejected)))
    return max(1, round(budget.tokens / (budget.batch_size * mean(tokens))))


def _read(source: PairSource) -> list[Pair]:
    pairs = load_preferences(source.source, source.split, wrap_prompts=False).pairs
    return [{name: value for name, value in pair.items() if name != "where" and value} for pair in pairs]


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode(errors="surrogateescape")).hexdigest()


def _content(file: str | None) -> str:
    if file is None:
        return ""
    if not Path(file).is_file():
        raise UserError(f"prompts: there is no file {file}; check the path, which starts from the recipe's folder")
    return Path(file).read_text(encoding="utf-8", errors="surrogateescape")  # it may be packed, or Parquet


def _lines(pairs: Sequence[Pair]) -> str:
    return "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)


def _prompt_key(pair: Pair) -> str:
    return json.dumps(pair["prompt"], sort_keys=True)


def _notes(data: DataSet, train: Sequence[Pair], validation: Sequence[Pair], test: Sequence[Pair]) -> tuple[str, ...]:
    held_out = {_prompt_key(pair) for pair in test}
    shared = sum(_prompt_key(pair) in held_out for pair in (*train, *validation))
    counts = f"{data.name}: {len(train)} training, {len(validation)} validation and {len(test)} test pairs"
    return (counts, f"{data.name}: {shared} training pairs have a prompt of the test pairs") if shared else (counts,)
