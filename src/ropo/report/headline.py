"""Which of the suites' metrics stand in the summary, and whether more or less of each is better."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator
from dataclasses import dataclass

from ropo.comparison.results import ComparisonResult, DataSuite

# suite: metric: 1 where more is better, -1 where less is, 0 where neither is
_HEADLINES: dict[str, dict[str, int]] = {
    "alpaca-eval": {"length_controlled_win_rate": 1, "win_rate": 1, "average_length": 0},
    "mt-bench": {"score": 1, "win_rate": 1},
    "instructions": {"passes": 1, "tokens": 0},
    "preference": {"accuracy": 1, "margin": 0},
    "diversity": {"distinct_2": 1, "self_bleu": -1, "embedding_distance": 1, "tokens": 0, "repetition": -1},
}
LIKELIHOOD = ("chosen_gain", "rejected_gain", "margin", "chosen_log_prob", "rejected_log_prob", "accuracy")
QUALITY = ("alpaca-eval", "mt-bench", "instructions", "preference")  # the most telling first
KNOWLEDGE, _TEXT = "knowledge", "text/"


@dataclass(frozen=True)
class Column:
    """Name one metric of one suite of a data set."""

    suite: DataSuite
    name: str
    better: int

    @property
    def title(self) -> str:
        """What the column is called."""
        return self.name.replace("_", " ").replace("/", " · ")

    @property
    def meaning(self) -> str:
        """What the metric is, in the suite's words."""
        metrics = (metric for model in self.suite.result.models for metric in model.metrics)
        return next(metric.meaning for metric in metrics if metric.name == self.name)


def suites_of(result: ComparisonResult, data: str) -> list[DataSuite]:
    """Return the suites of a data set."""
    return [suite for suite in result.suites if suite.data == data]


def all_columns(suite: DataSuite) -> list[Column]:
    """Return every metric of a suite, in the order of its first model that has it."""
    names = dict.fromkeys(metric.name for model in suite.result.models for metric in model.metrics)
    return [Column(suite, name, _direction(suite.result.suite, name) or 0) for name in names]


def headline_columns(result: ComparisonResult, data: str) -> list[Column]:
    """Return the columns of the summary: preference quality, then knowledge, then variety and length."""
    order = [*QUALITY, KNOWLEDGE, *_HEADLINES]
    return sorted(_headlines(result, data), key=lambda each: order.index(each.suite.result.suite))


def forgetting_columns(result: ComparisonResult, data: str) -> list[Column]:
    """Return what tells forgetting: the text's perplexity first, then what is known."""
    found = [each for each in headline_columns(result, data) if each.suite.result.suite == KNOWLEDGE]
    return sorted(found, key=lambda each: not each.name.startswith(_TEXT))


def quality_columns(result: ComparisonResult, data: str) -> list[Column]:
    """Return what tells preference quality: win rates, pass rates, accuracy on held-out pairs."""
    found = [each for each in headline_columns(result, data) if each.better and each.suite.result.suite in QUALITY]
    return sorted(found, key=lambda each: QUALITY.index(each.suite.result.suite))


def _direction(suite: str, name: str) -> int | None:
    """Say which way a headline metric is better; None for what is no headline."""
    if suite != KNOWLEDGE:
        return _HEADLINES.get(suite, {}).get(name)
    if name.endswith("perplexity"):
        return -1
    return 1 if name.rpartition("/")[2] in ("acc", "acc_norm", "exact_match") else None


def _headlines(result: ComparisonResult, data: str) -> Iterator[Column]:
    for suite in suites_of(result, data):
        for column in all_columns(suite):
            if _direction(suite.result.suite, column.name) is not None:
                yield column
