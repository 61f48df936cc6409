"""Leave out or refuse the pairs that `max_length` would cut to nothing, before training starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.templating import apply_template
from ropo.preferences.data import ANSWERS, Pair, PreferenceData, template_options


def leave_out_long_prompts(
    data: PreferenceData, tokenizer: PreTrainedTokenizerBase, max_length: int | None, skip: bool
) -> tuple[PreferenceData, int]:
    """Find pairs whose prompt alone fills `max_length`: sequences are cut at the end, so no answer would be left.

    Args:
        data: The pairs.
        tokenizer: Of the model to be trained.
        max_length: Most tokens of a sequence; None for no limit.
        skip: Whether to leave such pairs out, rather than to refuse the data.

    Returns:
        The data without them, and their number.

    Raises:
        UserError: If there are such pairs and they are not to be skipped, or nothing would be left; with the place of
            the first, and the length that would do for all.

    Cost: tokenises every prompt; two thousand a second.
    """
    if max_length is None:
        return data, 0
    lengths = [prompt_length(pair, tokenizer) for pair in data.pairs]
    kept = [index for index, length in enumerate(lengths) if length < max_length]
    cut = len(lengths) - len(kept)
    if cut and not (skip and kept):
        first = next(index for index, length in enumerate(lengths) if length >= max_length)
        raise UserError(
            f"max_length: {max_length} tokens leave nothing of the answers in {cut} of {len(data)} pairs, first in "
            f"{data.pairs[first]['where']}, whose prompt has {lengths[first]} tokens; raise --max_length above "
            f"{max(lengths)}, or leave such pairs out with --skip_long_prompts"
        )
    return replace(data, pairs=data.pairs.select(kept)), cut


def prompt_length(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of tokens of a pair's prompt, as the trainer counts them."""
    prompt: Any = pair["prompt"]
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    options = {"add_generation_prompt": True, "return_dict": False, **template_options(pair)}
    return len(apply_template(tokenizer, prompt, f"data {pair['where']}", **options))


def check_templates(data: PreferenceData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Render every conversation once, so that a template which refuses one does so before training starts.

    Raises:
        UserError: With the place of the first pair that it refuses.

    Cost: ten thousand pairs a second.
    """
    for pair in data.pairs:
        if not isinstance(pair["prompt"], str):
            for name in ANSWERS:
                turns = pair["prompt"] + pair[name]
                where = f"data {pair['where']}: {name}"
                apply_template(tokenizer, turns, where, tokenize=False, **template_options(pair))
