"""Say what came of the prompts."""

from __future__ import annotations

__all__ = ["summary_table"]

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from ropo.lm.prompts import PromptRecord
from ropo.pairs.selection import Pair, ScoredAnswer

_EVERYTHING = "all"


@dataclass(frozen=True)
class InstructionRow:
    """The figures of one kind of instruction, or of everything.

    Args:
        kind: The instructions' names joined by `+`, or "all".
        prompts: Number of prompts.
        answers: Number of sampled answers that have a score.
        pass_rate: Share of these answers whose score reaches the threshold; None without one.
        finished_rate: Share of these answers that the model ended itself; None without one.
        pairs: Number of pairs.
        chosen_tokens: Mean length of the chosen answers; None without pairs.
        rejected_tokens: Mean length of the rejected answers; None without pairs.
    """

    kind: str
    prompts: int
    answers: int
    pass_rate: float | None
    finished_rate: float | None
    pairs: int
    chosen_tokens: float | None
    rejected_tokens: float | None


def _kind_of(prompt: PromptRecord) -> str:
    """Return the names of a prompt's instructions, or "other" where it has none."""
    instructions = prompt.fields.get("instructions") or [{"name": "other"}]
    return "+".join(sorted(instruction["name"] for instruction in instructions))


def summarise(
    prompts: Sequence[PromptRecord],
    candidates: Mapping[int, Sequence[ScoredAnswer]],
    pairs: Sequence[Pair],
    threshold: float,
) -> list[InstructionRow]:
    """Return one row a kind of instruction, in alphabetical order, and a last one for everything."""
    kinds = sorted({_kind_of(prompts[number]) for number in candidates})
    members = {kind: [number for number in candidates if _kind_of(prompts[number]) == kind] for kind in kinds}
    members[_EVERYTHING] = list(candidates)
    return [_row(kind, numbers, candidates, pairs, threshold) for kind, numbers in members.items()]


def summary_table(rows: Sequence[InstructionRow], dropped: Counter[str]) -> Table:
    """Return the rows as a table to print, with the dropped prompts below."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
    table = Table(
        title="Preference pairs",
        caption=f"pass, ended: shares of answers; chosen, rejected: mean tokens\nPrompts without a pair: {reasons}",
    )
    table.add_column("instruction", no_wrap=True)
    for heading in ("prompts", "answers", "pass", "ended", "pairs", "chosen", "rejected"):
        table.add_column(heading, justify="right")
    for row in rows:
        lengths = ("-" if mean is None else f"{mean:.1f}" for mean in (row.chosen_tokens, row.rejected_tokens))
        rates = ("-" if rate is None else f"{rate:.2f}" for rate in (row.pass_rate, row.finished_rate))
        table.add_row(
            row.kind, str(row.prompts), str(row.answers), *rates, str(row.pairs), *lengths, end_section=row is rows[-2]
        )
    return table


def _row(
    kind: str,
    numbers: Sequence[int],
    candidates: Mapping[int, Sequence[ScoredAnswer]],
    pairs: Sequence[Pair],
    threshold: float,
) -> InstructionRow:
    answers = [answer for number in numbers for answer in candidates[number]]
    members = set(numbers)
    own = [pair for pair in pairs if pair.prompt in members]
    return InstructionRow(
        kind=kind,
        prompts=len(numbers),
        answers=len(answers),
        pass_rate=fmean(answer.score >= threshold for answer in answers) if answers else None,
        finished_rate=fmean(answer.finished for answer in answers) if answers else None,
        pairs=len(own),
        chosen_tokens=fmean(pair.chosen.tokens for pair in own) if own else None,
        rejected_tokens=fmean(pair.rejected.tokens for pair in own) if own else None,
    )
