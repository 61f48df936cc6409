"""What a model can be given: how many positions it has, which token ids it knows, whether it may be padded."""

from __future__ import annotations

__all__ = ["cap_length", "check_ids", "position_limit", "virtual_tokens"]

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftConfig, PeftModel
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.once import say

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_LONGEST_NAMES = ("max_position_embeddings", "max_seq_len")
_OFFSET = 2  # rows before the first position in the tables of OPT, BioGPT and BART


def position_limit(model: Any) -> int | None:
    """Return how many tokens a model can be given at most, or None where nothing in it runs out.

    Positions run out where they are looked up: in a learned table as GPT-2's, or in sines, masks or biases that were
    made once. Rotary embeddings are computed for any position.

    Args:
        model: A causal language model, adapted or not.

    Cost: one look at every module, without touching a weight.
    """
    config = model.config.get_text_config()
    named = [getattr(config, name, None) for name in _LONGEST_NAMES]
    longest = next((value for value in named if isinstance(value, int) and value > 0), None)
    if longest is None:
        return None
    words = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    found = [_rows_of(module, longest) for module in model.modules() if id(module) not in words]
    limits = [rows for rows in found if rows is not None]
    if limits:
        return min(limits) - virtual_tokens(model)
    rotary = any(name.endswith("inv_freq") for name, _ in model.named_buffers())
    return longest if named[0] is None and not rotary else None  # MPT makes its biases anew, but never longer


def _rows_of(module: nn.Module, longest: int) -> int | None:
    """Return the positions that a module has a row for, where it is a table of positions."""
    if isinstance(module, nn.Embedding):
        if not longest <= module.num_embeddings <= longest + _OFFSET:
            return None
        reserved = 0 if module.padding_idx is None or module.num_embeddings > longest else module.padding_idx + 1
        return longest - reserved  # RoBERTa counts from after the padding
    kept = [*module._buffers.values(), *(value for value in vars(module).values() if isinstance(value, Tensor))]
    tables = [tensor.shape for tensor in kept if tensor is not None and tensor.ndim > 1]
    return longest if any(longest in (shape[0], *shape[:-1][-1:]) for shape in tables) else None


def cap_answers(model: Any, lengths: Sequence[int], most: int) -> list[int]:
    """Return how many new tokens each prompt can have, and say so where that is fewer than were asked for.

    Raises:
        UserError: If a prompt takes all positions.
    """
    limit = position_limit(model)
    if limit is None:
        return [most] * len(lengths)
    for number, length in enumerate(lengths, start=1):
        if length >= limit:
            raise UserError(
                f"prompt {number} of {len(lengths)}: has {length} tokens, but {_name_of(model)} has {limit} positions, "
                "so none is left for an answer; shorten the prompt or choose another model"
            )
    capped = sum(length + most > limit for length in lengths)
    if capped:
        say(
            f"{_name_of(model)} has {limit} positions: {capped} of {len(lengths)} prompts leave fewer than "
            f"{most} for the answer, which is cut where they end"
        )
    return [min(most, limit - length) for length in lengths]


def cap_length(model: Any, longest: int | None, adapter: Any = None) -> int | None:
    """Return the length to cut sequences at, no more than the model has positions; say so where that is less.

    Args:
        model: A causal language model.
        longest: The length that was asked for; None for no limit.
        adapter: Configuration of what is still to be put on the model, where that takes positions of its own; anything
            else is passed over, as TRL refuses it in its words.
    """
    limit = position_limit(model)
    if limit is not None and isinstance(adapter, PeftConfig):
        limit -= _virtual_tokens(adapter)
    if limit is None or (longest is not None and longest <= limit):
        return longest
    say(
        f"{_name_of(model)} has {limit} positions: sequences are cut at {limit} tokens, not at {longest or 'their end'}"
    )
    return limit


def fit_sequences(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Cut answers where a model's positions end, as training cuts them at `max_length`, and say how many were cut.

    Args:
        model: A causal language model.
        prompts: Token ids; one that leaves no position for its answer keeps its last tokens, half as many as there
            are positions.
        answers: Token ids.

    Returns:
        Prompts and answers.
    """
    limit = position_limit(model)
    if limit is None:
        return list(prompts), list(answers)
    kept = [prompt if len(prompt) < limit else prompt[-(limit // 2) :] for prompt in prompts]
    cut = [answer[: limit - len(prompt)] for prompt, answer in zip(kept, answers, strict=True)]
    changed = sum(len(a) + len(b) > limit for a, b in zip(prompts, answers, strict=True))
    if changed:
        say(
            f"{_name_of(model)} has {limit} positions: {changed} of {len(prompts)} sequences are longer, "
            "and cut to them"
        )
    return kept, cut


def check_ids(model: Any, ids: Iterable[int], tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Refuse token ids that the model has no embedding for.

    A tokenizer may have more tokens than the model and still fit it, as Gemma 3's does whose image token belongs to a
    larger sibling. So what counts is what is used.

    Args:
        model: A causal language model.
        ids: Every token id that it is to be given.
        tokenizer: Where they come from, for the message.

    Raises:
        UserError: If one is too large.
    """
    rows = embedding_rows(model)
    largest = max(ids, default=0)
    if largest >= rows:
        size = "" if tokenizer is None else f" of the tokenizer's {len(tokenizer)}"
        raise UserError(
            f"model {_name_of(model)}: has embeddings for {rows} tokens, and token {largest}{size} is not among them; "
            "give the tokenizer that belongs to the model, or a model resized to it (resize_token_embeddings)"
        )


def embedding_rows(model: Any) -> int:
    """Return how many tokens a model has embeddings for, also where an adapter lies around them."""
    words = model.get_input_embeddings()
    while not hasattr(words, "num_embeddings"):  # LoRA's and trained tokens' own layers do not say
        words = words.original_module if isinstance(words, AuxiliaryTrainingWrapper) else words.base_layer
    return int(words.num_embeddings)


def readable_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many of the model's tokens the tokenizer can read; None for all.

    Embeddings are often padded to a round number of rows. Such a row is never trained, stands for nothing and would be
    decoded to nothing, so it is never sampled.

    Cost: a look at the tokenizer's whole vocabulary where the model has more rows than it has tokens.
    """
    rows = embedding_rows(model)
    if len(tokenizer) >= rows:
        return None
    largest = max(tokenizer.get_vocab().values(), default=0)  # more than the number of tokens, where ids have gaps
    return largest + 1 if largest + 1 < rows else None


def ignores_padding(model: Any) -> bool:
    """Tell whether a model computes the same for a sequence that is padded on the left.

    Attention with a mask does. A recurrence may take padding for input, as RWKV's does, so other models are tried. With
    virtual tokens in front PEFT drops the positions, and padding would part the tokens from these.

    Args:
        model: A causal language model in evaluation mode.

    Cost: nothing where all layers are attention, else two forward passes over a dozen tokens.
    """
    if virtual_tokens(model):
        return False
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    if not model._is_stateful and not others:
        return True
    rows = torch.arange(2, 12, device=model.device).view(2, 5) % embedding_rows(model)
    mask = torch.ones_like(rows)
    mask[0, :3] = 0  # a second row that is full: some models look at the mask of batches only
    with torch.no_grad():
        padded = model(input_ids=rows, attention_mask=mask, position_ids=left_padded_positions(mask), use_cache=False)
        alone = model(input_ids=rows[:1, 3:], use_cache=False)
    return close_to_rounding(padded.logits[0, -1], alone.logits[0, -1], model.dtype)


def virtual_tokens(model: Any) -> int:
    """Return how many virtual tokens an adapter puts before a model's own, as prompt and prefix tuning do."""
    if not isinstance(model, PeftModel) or model._adapters_disabled:
        return 0
    return _virtual_tokens(model.active_peft_config)


def _virtual_tokens(adapter: Any) -> int:
    return int(adapter.num_virtual_tokens) if adapter.is_prompt_learning else 0


def close_to_rounding(logits: Float[Tensor, "*shape"], others: Float[Tensor, "*shape"], dtype: torch.dtype) -> bool:
    """Compare logits of two ways to compute them; the ways that differ in kind are off by about their size."""
    rounding = 100 * torch.finfo(dtype).eps * float(others.abs().max())
    return bool((logits.float() - others.float()).abs().max() <= rounding)


def left_padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]:
    """Return token ids padded on the left with 0, which the mask hides, so that every row ends in the last column."""
    length = max(map(len, rows))
    tokens = torch.tensor([[0] * (length - len(ids)) + list(ids) for ids in rows], device=device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in rows], device=device)
    return tokens, mask


def left_padded_positions(mask: Int[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Count positions from the first token that is no padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


@contextmanager
def telling_of_other_models(model: Any, doing: str) -> Iterator[None]:
    """Say in one line that transformers itself cannot do something with a model.

    Raises:
        UserError: Instead of any other exception but a lack of memory.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a model of another kind, or its own code: it may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"model {_name_of(model)}: {doing} fails in transformers itself ({reason:.160}); choose another model"
        ) from error


def _name_of(model: Any) -> str:
    """Return what messages call a model."""
    return model.config._name_or_path or type(model).__name__
