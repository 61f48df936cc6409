"""What a run starts from: its method, its pairs, its models, loaded and checked."""

from __future__ import annotations

__all__ = ["choose_method"]

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.adapters import adapter_base, adapter_config_of, check_trainable, is_adapter, load_adapter
from ropo.lm.held_out import wraps_prompts
from ropo.lm.loading import load_model
from ropo.lm.spreading import read_once
from ropo.lm.templating import apply_template, template_options, unread_lines
from ropo.lm.tokens import Limits, holds_templated_prompt, tokenize_prompt
from ropo.methods import adapter_config
from ropo.preferences.data import ANSWERS, PreferenceData, load_preferences
from ropo.runs.options import TrainOptions
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.processes import by_the_first
from ropo.training.distributed.sharding import cuts_base

_Model = PreTrainedModel | PeftModel
_FEW = 0.01  # of the pairs may be left out unasked: TRL leaves out any number of them


def choose_method(options: TrainOptions) -> tuple[str, PeftConfig | None]:
    """Return the method's name and the new adapter: None for full fine-tuning, or to train an adapter further."""
    if not is_adapter(options.model):
        method = options.method or "ropo"
        return method, adapter_config(method, options.adapter)
    given = ["method"] * (options.method is not None) + list(options.adapter)
    if given:
        raise UserError(f"--{given[0]}: {options.model} is an adapter, which brings its own; leave the option out")
    check_trainable(options.model)
    kind: Any = adapter_config_of(options.model).peft_type
    return str(kind.value).lower(), None


def load_pairs(
    options: TrainOptions,
    which: str,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferenceConfig,
    console: Console,
) -> PreferenceData:
    """Load the pairs of `--data` or `--eval_data`, and say what was made of them."""
    source, split = (options.data, options.split) if which == "data" else (str(options.eval_data), options.eval_split)
    data = load_preferences(source, split, wraps_prompts(tokenizer, options.plain_prompts))
    if tokenizer.chat_template is None and not isinstance(data.pairs[0]["prompt"], str):
        raise UserError(
            f"data {source}: holds conversations, but the tokenizer of {options.model} has no chat template"
        )
    _check_templates(data, tokenizer)
    data, long = leave_out_long_prompts(data, tokenizer, config.limits, options.skip_long_prompts)
    dropped = [
        f"{count} {what} left out"
        for count, what in ((data.duplicates, "duplicates"), (data.ties, "with equal answers"))
        if count
    ]
    notes = [f"{len(data)} pairs from {source}", data.reading, *dropped, *([long] if long else [])]
    notes += unread_lines(tokenizer, data.pairs)
    if templated := sum(holds_templated_prompt(tokenizer, pair) for pair in data.pairs):
        notes.append(f"{templated} prompts went through the chat template already and are used as they are")
    elif data.wrapped:
        notes.append("text prompts go through the chat template (--plain_prompts keeps them)")
    console.print(f"{'data' if which == 'data' else 'held out':<10}" + "; ".join(notes))
    return data


def leave_out_long_prompts(
    data: PreferenceData, tokenizer: PreTrainedTokenizerBase, limits: Limits, skip: bool
) -> tuple[PreferenceData, str | None]:
    """Leave out the pairs whose prompt alone fills `max_length`: cut at the end, they would have no answer.

    Args:
        data: The pairs.
        tokenizer: Of the model to be trained.
        limits: Where sequences are cut.
        skip: Whether to leave out any number of them; otherwise at most 1 % of the pairs, or one.

    Returns:
        The data without them, and what to tell the user, or None where there are none.

    Raises:
        UserError: If there are more, or nothing would be left; with the place of the first, and the length that would
            do for all.

    Cost: tokenises every prompt; two thousand a second.
    """
    if not limits.prompts_matter or limits.max_length is None:
        return data, None
    lengths = [len(tokenize_prompt(tokenizer, pair, f"data {pair['where']}")) for pair in data.pairs]
    kept = [index for index, length in enumerate(lengths) if length < limits.max_length]
    cut = len(lengths) - len(kept)
    if not cut:
        return data, None
    first = next(index for index, length in enumerate(lengths) if length >= limits.max_length)
    where = f"first in {data.pairs[first]['where']}, whose prompt has {lengths[first]} tokens"
    few = cut <= max(1, int(_FEW * len(lengths)))
    if not kept or not (skip or few):
        raise UserError(
            f"max_length: {limits.max_length} tokens leave nothing of the answers in {cut} of {len(data)} pairs, "
            f"{where}; raise --max_length above {max(lengths)}, or leave such pairs out with --skip_long_prompts"
        )
    line = f"{cut} left out, whose prompt alone fills max_length {limits.max_length} ({where})"
    return replace(data, pairs=data.pairs.select(kept)), line


def _check_templates(data: PreferenceData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Render every conversation once, so that a template which refuses one does so before training starts.

    Cost: ten thousand pairs per second.
    """
    for pair in data.pairs:
        if not isinstance(pair["prompt"], str) and not holds_templated_prompt(tokenizer, pair):
            for name in ANSWERS:
                turns = pair["prompt"] + pair[name]
                where = f"data {pair['where']}: {name}"
                apply_template(tokenizer, turns, where, tokenize=False, **template_options(pair))


def load_models(options: TrainOptions, method: str, config: PreferenceConfig) -> tuple[_Model, PreTrainedModel | None]:
    """Load the model to train, and the frozen reference that full fine-tuning needs beside it."""
    dtype = weights_dtype(options.dtype, method, on_gpu=config.device.type == "cuda")
    remote = config.trust_remote_code

    def load(source: str) -> Any:
        """Read a model in every process or, where it is about to be cut over them, in the first."""
        if not cuts_base(config) or options.bits or Path(source).suffix == ".gguf":
            return load_model(source, dtype, remote, options.bits)
        return read_once(source, lambda: load_model(source, dtype, remote), by_the_first, remote)

    if is_adapter(options.model):
        return load_adapter(load(adapter_base(options.model)), options.model, trainable=True), None
    needs_reference = method == "full" and not config.precompute_ref_log_probs
    return load(options.model), load(options.model) if needs_reference else None


def weights_dtype(name: str, method: str, on_gpu: bool) -> torch.dtype | None:
    """Return the dtype of the weights; None for the checkpoint's own.

    On a GPU frozen weights stay as they are stored, and trained ones are float32: bf16 would swallow small updates.
    """
    if name == "auto":
        return None if on_gpu and method != "full" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
