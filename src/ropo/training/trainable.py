"""Drop the tokenised records that cannot be trained on, and name them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow.compute
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ropo.lm.limits import check_ids
from ropo.preferences.data import template_options

logger = logging.getLogger(__name__)

NUMBER = "record_number"  # the column that remembers a record's place in the data it came from


def number_records(dataset: Dataset) -> Dataset:
    """Add each record's index, so that it can be named after others have been dropped."""
    return dataset.add_column(NUMBER, list(range(len(dataset))))


@dataclass(frozen=True)
class Numbered:
    """Collate a batch, and keep its records' numbers beside it, where they have some.

    Args:
        collate: What makes the batch.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch; the numbers are its last entry, because accelerate measures a batch by its first."""
        batch = self.collate(examples)
        if NUMBER not in examples[0]:
            return batch
        return {**batch, NUMBER: torch.tensor([example[NUMBER] for example in examples])}


def keep_trainable(dataset: Dataset, size: int, name: str, max_length: int | None, budget: int | None) -> Dataset:
    """Drop the records that have nothing to train on or do not fit, and say which and why.

    Args:
        dataset: Tokenised, numbered records, from which TRL has dropped those whose prompt alone fills `max_length`.
        size: Number of records before that.
        name: What to call the data set in messages.
        max_length: Most tokens of prompt and answer, or None.
        budget: Most packed tokens of a record, or None.
    """
    cut = set(range(size)) - set(dataset[NUMBER])
    _say(name, cut, f"no answer is left: the prompt fills max_length={max_length}; skipped (raise it to train on them)")
    dataset = _keep(dataset, name, "the prompt or an answer has no tokens; skipped", _is_complete, {})
    if budget is None:
        return dataset
    limits = {"max_length": max_length, "budget": budget}
    reason = f"prompt and answers exceed tokens_per_step={budget}; skipped (raise it, or lower max_length)"
    return _keep(dataset, name, reason, _fits, limits)


def check_records(model: Any, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse records with tokens that the model has no embedding for; the padding is looked up too.

    Raises:
        UserError: If there is one; see `ropo.lm.limits.check_ids`.
    """
    columns = [column for column in ("prompt_ids", "chosen_ids", "rejected_ids") if column in dataset.column_names]
    largest = [pyarrow.compute.max(pyarrow.compute.list_flatten(dataset.data[column])).as_py() for column in columns]
    check_ids(model, [token for token in (*largest, tokenizer.pad_token_id) if token is not None], tokenizer)


def report_rewritten_prompts(dataset: Dataset, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the records whose prompt, templated and tokenised on its own, is not a prefix of the conversation.

    They are trained from where the two part, as TRL does: the end of the prompt is left out of the context.
    """
    if "prompt" not in dataset.column_names:
        return  # tokenised beforehand: nothing was templated here
    rewritten = dataset.filter(_is_rewritten, fn_kwargs={"tokenizer": tokenizer})
    reason = (
        "the tokens of the prompt are not a prefix of those of the conversation (its template rewrites them, or words "
        "merge at the seam); trained from where they part, without the end of the prompt"
    )
    _say(name, rewritten[NUMBER], reason)


def _keep(dataset: Dataset, name: str, reason: str, condition: Any, options: dict[str, Any]) -> Dataset:
    kept = dataset.filter(condition, fn_kwargs=options)
    _say(name, set(dataset[NUMBER]) - set(kept[NUMBER]), reason)
    return kept


def _is_complete(record: dict[str, Any]) -> bool:
    return all(len(record[column]) > 0 for column in ("prompt_ids", "chosen_ids", "rejected_ids"))


def _fits(record: dict[str, Any], max_length: int | None, budget: int) -> bool:
    prompt = len(record["prompt_ids"])
    room = float("inf") if max_length is None else max_length - prompt
    answers = sum(min(len(record[column]), room) for column in ("chosen_ids", "rejected_ids"))
    return prompt - 1 + answers <= budget


def _is_rewritten(record: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    prompt = record["prompt"]
    if isinstance(prompt, str):
        templated = tokenizer(prompt)
    else:
        options = template_options(record)
        templated = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True, **options)
    return len(templated["input_ids"]) > len(record["prompt_ids"])


def _say(name: str, records: Iterable[int], reason: str, shown: int = 5) -> None:
    numbers = sorted(records)
    if numbers:
        named = ", ".join(map(str, numbers[:shown])) + (", ..." if len(numbers) > shown else "")
        logger.warning(f"{name} data, {len(numbers)} record(s) ({named}): {reason}")
