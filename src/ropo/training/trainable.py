"""Drop the tokenised records that cannot be trained on, and name them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl.data_utils import _tokenize

from ropo.core.errors import UserError
from ropo.preferences.data import template_options
from ropo.training.lengths import Limits
from ropo.training.packing.collator import NUMBER

logger = logging.getLogger(__name__)


def number_records(dataset: Dataset) -> Dataset:
    """Add each record's index, so that it can be named after others have been dropped."""
    return dataset.add_column(NUMBER, list(range(len(dataset))))


def keep_trainable(dataset: Dataset, size: int, name: str, limits: Limits, budget: int | None) -> Dataset:
    """Drop the records that have nothing to train on or do not fit, and say which and why.

    Args:
        dataset: Tokenised, numbered records, from which TRL has dropped those whose prompt alone fills `max_length`.
        size: Number of records before that.
        name: What to call the data set in messages.
        limits: Where sequences are cut.
        budget: Most packed tokens of a record, or None.

    Raises:
        UserError: If no record is left.
    """
    max_length = limits.max_length
    cut = set(range(size)) - set(dataset[NUMBER])
    _say(name, cut, f"no answer is left: the prompt fills max_length={max_length}; skipped (raise it to train on them)")
    dataset = _keep(dataset, name, "the prompt or an answer has no tokens; skipped", _is_complete, {})
    if budget is not None:
        reason = f"prompt and answers exceed tokens_per_step={budget}; skipped (raise it, or lower max_length)"
        dataset = _keep(dataset, name, reason, _fits, {"limits": limits, "budget": budget})
    if not len(dataset):
        raise UserError(f"{name} data: none of its {size} record(s) can be trained on; see the lines above")
    return dataset


def report_rewritten_prompts(dataset: Dataset, name: str, tokenizer: PreTrainedTokenizerBase | ProcessorMixin) -> None:
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


def _fits(record: dict[str, Any], limits: Limits, budget: int) -> bool:
    lengths = (len(record[column]) for column in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return limits.packed_tokens(*lengths) <= budget


def _is_rewritten(record: dict[str, Any], tokenizer: PreTrainedTokenizerBase | ProcessorMixin) -> bool:
    prompt = record["prompt"]
    options = {} if isinstance(prompt, str) else {"add_generation_prompt": True, **template_options(record)}
    return len(_tokenize(tokenizer, prompt, **options)["input_ids"]) > len(record["prompt_ids"])


def _say(name: str, records: Iterable[int], reason: str, shown: int = 5) -> None:
    numbers = sorted(records)
    if numbers:
        named = ", ".join(map(str, numbers[:shown])) + (", ..." if len(numbers) > shown else "")
        logger.warning(f"{name} data, {len(numbers)} record(s) ({named}): {reason}")
