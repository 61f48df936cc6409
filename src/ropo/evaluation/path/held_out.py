"""What every checkpoint of a path is measured on, read once."""

from __future__ import annotations

__all__ = ["read_path_data"]

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.core.files import read_text
from ropo.core.record import Source
from ropo.evaluation.path import PathSettings
from ropo.instructions import check_instructions, satisfied
from ropo.lm.held_out import BETA, HeldOutPairs, read_held_out, trained_limits, trained_plainly, trained_with
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import Answer, PromptRecord, SamplingSettings, encode_prompts, model_name, read_prompts
from ropo.lm.tokens import TextWindow, text_windows


@dataclass(frozen=True)
class PathData:
    """Pairs, prompts and windows as the model's tokenizer has them, and how they are used.

    Args:
        tokenizer: The run's own.
        pairs: Held-out pairs.
        beta: What margins are multiplied by.
        plain_prompts: Whether the pairs' text prompts are past the chat template.
        prompts: Prompts to answer, perhaps none.
        encoded: Their tokens.
        sampling: How they are answered.
        windows: Pieces of plain text, perhaps none.
        sources: What was read, by its use.
    """

    tokenizer: PreTrainedTokenizerBase
    pairs: HeldOutPairs
    beta: float
    plain_prompts: bool
    prompts: Sequence[PromptRecord]
    encoded: Sequence[Sequence[int]]
    sampling: SamplingSettings
    windows: Sequence[TextWindow]
    sources: dict[str, Source]

    @property
    def checkable(self) -> bool:
        """Whether a program can check the answers to every prompt."""
        return bool(self.prompts) and all(prompt.fields.get("instructions") for prompt in self.prompts)

    def passed(self, answers: Sequence[Sequence[Answer]]) -> list[float] | None:
        """Return of each prompt the share of its answers that follow all instructions; None if there are none."""
        if not self.checkable:
            return None
        return [
            sum(all(satisfied(prompt.fields["instructions"], answer.text)) for answer in group) / len(group)
            for prompt, group in zip(self.prompts, answers, strict=True)
        ]


def read_path_data(run: str, model: str, settings: PathSettings, seed: int) -> PathData:
    """Read what a run is measured on, cut and rendered as in its training.

    Raises:
        UserError: If a file is missing or malformed, or an instruction is one that no checker knows.
    """
    tokenizer = load_tokenizer(model)
    plain = trained_plainly(run) if settings.plain_prompts is None else settings.plain_prompts
    pairs = read_held_out(
        settings.pairs,
        settings.split,
        tokenizer,
        trained_limits(run, models=[model]),
        settings.max_pairs,
        plain,
    )
    prompts = read_prompts(settings.prompts)[: settings.max_prompts] if settings.prompts else []
    text = read_text(settings.text, "text") if settings.text else ""
    windows = text_windows(tokenizer, text, settings.window, settings.max_windows) if settings.text else []
    data = PathData(
        tokenizer=tokenizer,
        pairs=pairs,
        beta=settings.beta or trained_with(run, "beta", BETA),
        plain_prompts=plain,
        prompts=prompts,
        encoded=encode_prompts(tokenizer, prompts),
        sampling=SamplingSettings(settings.samples, 1.0, 1.0, settings.max_new_tokens, seed),
        windows=windows,
        sources=_sources(settings, pairs, prompts, windows),
    )
    for prompt in prompts if data.checkable else ():  # before anything is loaded
        check_instructions(prompt.fields["instructions"], f"prompts {settings.prompts}:{prompt.line}")
    return data


def _sources(
    settings: PathSettings, pairs: HeldOutPairs, prompts: Sequence[PromptRecord], windows: Sequence[TextWindow]
) -> dict[str, Source]:
    """Describe what was read by what is used of it."""
    records = [{name: value for name, value in each.items() if name != "where"} for each in pairs.records]
    found = {"pairs": _source(settings.pairs, records, {"pairs": len(records)})}
    if settings.prompts:
        fields = [each.fields for each in prompts]
        found["prompts"] = _source(settings.prompts, fields, {"prompts": len(prompts)})
    if settings.text:
        tokens = {"windows": len(windows), "tokens": sum(len(each.tokens) for each in windows)}
        found["text"] = _source(settings.text, [each.ids for each in windows], tokens)
    return found


def _source(name: str | Path, content: Iterable[Any], counts: dict[str, int]) -> Source:
    return Source.of(model_name(str(name)), json.dumps(list(content), sort_keys=True, default=str), **counts)
