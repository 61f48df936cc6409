"""Pairwise verdicts by score: rules, a reward model, or the user's function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ropo.core.kept import content_key, kept_rows
from ropo.judging.chat import Meter
from ropo.judging.pairwise import Duel, Preference
from ropo.judging.scorers import RewardModelScorer, Scorer, scores_of
from ropo.lm.fingerprint import fingerprint_source


@dataclass
class ScorerJudge:
    """Prefer the answer with the higher score.

    Such a judge sees no order, so its two orders agree by construction. The verdicts of a reward model are kept on
    disk. Those of rules are not, as they cost less than reading them, nor those of a function, as nobody knows what
    else it depends on.

    Args:
        scorer: Any scorer of `ropo.judging.scorers`.
        folder: Where verdicts are kept.
        meter: Counts verdicts given now as calls, and those read from disk.
    """

    scorer: Scorer
    folder: Path
    meter: Meter = field(default_factory=Meter)

    @property
    def name(self) -> str:
        """Return the scorer's name."""
        return self.scorer.name

    def compare(self, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[Preference]:
        """Return 1 where the second answer scores higher, 0 where the first does, and 0.5 for equal scores.

        Raises:
            UserError: If the scorer fails, or cannot judge a prompt.
        """
        if isinstance(self.scorer, RewardModelScorer):
            seconds = self._kept(self.scorer.source, duels, advance)
        else:
            seconds = []
            for duel in duels:
                seconds.append(self._judge(duel))
                advance(1)
        return [Preference(second) for second in seconds]

    def _kept(self, source: str, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[float]:
        asked = content_key([[duel.prompt.turns, duel.first, duel.second] for duel in duels])
        wanted = {"judge": fingerprint_source(source), "duels": asked}
        before = self.meter.calls
        rows = kept_rows(
            self.folder, wanted, len(duels), lambda start: ([self._judge(duel)] for duel in duels[start:]), advance
        )
        self.meter.count_kept(len(duels) - (self.meter.calls - before))
        return rows

    def _judge(self, duel: Duel) -> float:
        first, second = scores_of(self.scorer, duel.prompt, [duel.first, duel.second])
        self.meter.count_call()
        return 0.5 if first == second else float(second > first)
