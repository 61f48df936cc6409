"""Tokenise records, drop those that cannot be trained on, and name them."""

from __future__ import annotations

__all__ = ()

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow.compute
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl.data_utils import _tokenize, extract_prompt
from trl.trainer.utils import global_then_local_main_first

from ropo.core.errors import UserError
from ropo.lm.capacity import check_ids
from ropo.lm.templating import template_options
from ropo.lm.tokens import Limits, TokenPair, holds_templated_prompt, tokenize_pair, tokenize_prompt
from ropo.training.packing.packer import NUMBER

logger = logging.getLogger(__name__)


def trainable(
    dataset: Any, name: str, args: Any, tokenizer: Any, model: Any, theirs: Callable[[Any], Any]
) -> Dataset | IterableDataset:
    """Tokenise records, then drop and name those that cannot be trained on; a stream is only tokenised.

    Args:
        dataset: Records, or what this returned before.
        name: What to call the data set in messages.
        args: The trainer's options.
        tokenizer: The model's, or its processor.
        model: What is trained, or its name.
        theirs: TRL's own way, for what a processor, or somebody else, tokenised.

    Raises:
        UserError: If no record is left, or one has tokens that the model has no embedding for.
    """

    def tokenized(records: Any) -> Any:
        if isinstance(tokenizer, ProcessorMixin) or "chosen" not in next(iter(records)):
            return theirs(records)
        with global_then_local_main_first():
            return _tokenize_records(records, tokenizer, args.limits, args.dataset_num_proc)

    if isinstance(dataset, IterableDataset):
        return tokenized(dataset)
    if NUMBER in dataset.column_names:
        return theirs(dataset)
    size = len(dataset)
    if not size:
        raise UserError(f"{name} data: holds no record; give at least one")
    # Numbered, so that each can be named after others have been dropped.
    prepared = tokenized(dataset.add_column(NUMBER, list(range(size))))
    return _keep_trainable(prepared, size, name, args, tokenizer, model)


def _tokenize_records(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, limits: Limits, processes: int | None
) -> Any:
    """Add the columns that TRL's collator reads, by `ropo.lm.tokens`, as every other command makes tokens.

    Args:
        dataset: Records with `chosen`, `rejected` and, unless it is what they share, `prompt`.
        tokenizer: The model's own.
        limits: Where sequences are cut; a record whose prompt leaves no room for an answer is dropped, as TRL does.
        processes: How many processes tokenise; None for this one.

    Returns:
        The records with `prompt_ids`, `chosen_ids` and `rejected_ids`.
    """
    options = {} if isinstance(dataset, IterableDataset) else {"num_proc": processes}
    if "prompt" not in next(iter(dataset)):
        dataset = dataset.map(extract_prompt, **options)
    dataset = dataset.map(_tokens_of, fn_kwargs={"tokenizer": tokenizer}, **options)
    if limits.prompts_matter:
        dataset = dataset.filter(_leaves_room, fn_kwargs={"max_length": limits.max_length}, **options)
    return dataset


def _report_templated(dataset: Dataset, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the records whose prompt went through the chat template before it was written down."""
    if "prompt" not in dataset.column_names:
        return  # tokenised beforehand
    templated = [record[NUMBER] for record in dataset if holds_templated_prompt(tokenizer, record)]
    _say(name, templated, "the prompt went through the chat template already; trained on as it is")


def _report_equal(dataset: Dataset, name: str) -> None:
    """Name the records whose two answers are the same tokens, whatever told them apart in the data."""
    equal = [record[NUMBER] for record in dataset if record["chosen_ids"] == record["rejected_ids"]]
    reason = "chosen and rejected have the same tokens (the chat template leaves out what tells them apart)"
    _say(name, equal, f"{reason}; nothing is learnt from them")


def _keep_trainable(dataset: Dataset, size: int, name: str, args: Any, tokenizer: Any, model: Any) -> Dataset:
    """Drop the records that have nothing to train on or do not fit, and say which and why.

    Records that are trained on, but perhaps not as they were meant, are named too.
    """
    if not isinstance(model, str) and not isinstance(tokenizer, ProcessorMixin):
        _check_records(model, dataset, tokenizer)
    _report_rewritten(dataset, name, tokenizer)
    if not isinstance(tokenizer, ProcessorMixin):
        _report_templated(dataset, name, tokenizer)
        _report_equal(dataset, name)
    limits, budget = args.limits, args.tokens_per_step
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


def _check_records(model: Any, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse records with tokens that the model has no embedding for; the padding is looked up too."""
    columns = [column for column in ("prompt_ids", "chosen_ids", "rejected_ids") if column in dataset.column_names]
    largest = [pyarrow.compute.max(pyarrow.compute.list_flatten(dataset.data[column])).as_py() for column in columns]
    check_ids(model, [token for token in (*largest, tokenizer.pad_token_id) if token is not None], tokenizer)


def _report_rewritten(dataset: Dataset, name: str, tokenizer: PreTrainedTokenizerBase | ProcessorMixin) -> None:
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
    return TokenPair(record["prompt_ids"], record["chosen_ids"], record["rejected_ids"]).is_complete


def _fits(record: dict[str, Any], limits: Limits, budget: int) -> bool:
    lengths = (len(record[column]) for column in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return limits.packed_tokens(*lengths) <= budget


def _tokens_of(record: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    pair = tokenize_pair(tokenizer, record, str(record.get("where", f"record {record.get(NUMBER, '')}".strip())))
    return {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}


def _leaves_room(record: Mapping[str, Any], max_length: int) -> bool:
    return len(record["prompt_ids"]) < max_length


def _is_rewritten(record: dict[str, Any], tokenizer: PreTrainedTokenizerBase | ProcessorMixin) -> bool:
    if not isinstance(tokenizer, ProcessorMixin):
        return len(tokenize_prompt(tokenizer, record)) > len(record["prompt_ids"])
    prompt = record["prompt"]
    options = {} if isinstance(prompt, str) else {"add_generation_prompt": True, **template_options(record)}
    return len(_tokenize(tokenizer, prompt, **options)["input_ids"]) > len(record["prompt_ids"])


def _say(name: str, records: Iterable[int], reason: str) -> None:
    numbers = sorted(records)
    if numbers:
        named = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        logger.warning(f"{name} data, {len(numbers)} record(s) ({named}): {reason}")
