"""Leave out or refuse the pairs that `max_length` would cut to nothing, before training starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.templating import apply_template
from ropo.preferences.data import ANSWERS, Pair, PreferenceData, template_options

FEW = 0.01  # of the pairs may be left out unasked: TRL leaves out any number of them


@dataclass(frozen=True)
class Limits:
    """Say where TRL cuts a sequence.

    Args:
        max_length: Most tokens of prompt and answer; None for no limit.
        truncation_mode: Which end of a longer sequence is kept, `keep_start` or `keep_end`.
    """

    max_length: int | None
    truncation_mode: str = "keep_start"

    @property
    def prompts_matter(self) -> bool:
        """Whether a prompt can leave no room for its answers."""
        return self.max_length is not None and self.truncation_mode == "keep_start"

    def packed_tokens(self, prompt: int, chosen: int, rejected: int) -> int:
        """Count the tokens of one pair in a pack: its prompt but one, and both answers, cut as TRL cuts them.

        Where the beginnings are cut, the answers keep different parts of their prompt, and then share none.
        """
        if self.max_length is None:
            return prompt - 1 + chosen + rejected
        if self.truncation_mode == "keep_start":
            room = self.max_length - prompt
            return prompt - 1 + min(chosen, room) + min(rejected, room)
        left = [max(0, min(prompt, self.max_length - answer)) for answer in (chosen, rejected)]
        cut = [min(answer, self.max_length) for answer in (chosen, rejected)]
        shared = left[0] if left[0] == left[1] else 0
        return sum(left) + sum(cut) - (shared + 1 if shared else 2)


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
    lengths = [prompt_length(pair, tokenizer) for pair in data.pairs]
    kept = [index for index, length in enumerate(lengths) if length < limits.max_length]
    cut = len(lengths) - len(kept)
    if not cut:
        return data, None
    first = next(index for index, length in enumerate(lengths) if length >= limits.max_length)
    where = f"first in {data.pairs[first]['where']}, whose prompt has {lengths[first]} tokens"
    few = cut <= max(1, int(FEW * len(lengths)))
    if not kept or not (skip or few):
        raise UserError(
            f"max_length: {limits.max_length} tokens leave nothing of the answers in {cut} of {len(data)} pairs, "
            f"{where}; raise --max_length above {max(lengths)}, or leave such pairs out with --skip_long_prompts"
        )
    line = f"{cut} left out, whose prompt alone fills max_length {limits.max_length} ({where})"
    return replace(data, pairs=data.pairs.select(kept)), line


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
