"""Leave out or refuse the pairs that `max_length` would cut to nothing, before training starts."""

from __future__ import annotations

__all__ = ["check_templates", "leave_out_long_prompts"]

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.templating import apply_template, template_options
from ropo.lm.tokens import Limits, holds_templated_prompt, tokenize_prompt
from ropo.preferences.data import ANSWERS, PreferenceData

_FEW = 0.01  # of the pairs may be left out unasked: TRL leaves out any number of them


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


def check_templates(data: PreferenceData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Render every conversation once, so that a template which refuses one does so before training starts.

    Raises:
        UserError: With the place of the first pair that it refuses.

    Cost: ten thousand pairs per second.
    """
    for pair in data.pairs:
        if not isinstance(pair["prompt"], str) and not holds_templated_prompt(tokenizer, pair):
            for name in ANSWERS:
                turns = pair["prompt"] + pair[name]
                where = f"data {pair['where']}: {name}"
                apply_template(tokenizer, turns, where, tokenize=False, **template_options(pair))
