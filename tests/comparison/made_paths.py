"""Paths made up by hand: a run from the numbers of its pairs, prompts and windows."""

from __future__ import annotations

from collections.abc import Sequence

from ropo.comparison.results import RunPath
from ropo.core.record import Source
from ropo.diagnostics.answers import AnswerMeasure
from ropo.evaluation.path.results import PathPoint, PathResult, SampledAnswers

BETA = 0.5
Row = Sequence[float]


def answers(passed: Row, tokens: Row, kl: Row | None = None) -> SampledAnswers:
    """Return what the answers to some prompts did."""
    measure = AnswerMeasure(
        answers=len(tokens),
        empty=0.0,
        tokens=sum(tokens) / len(tokens),
        ended=1.0,
        truncated=0.0,
        distinct_1=0.5,
        distinct_2=0.5,
        expectation_adjusted_distinct=0.5,
        self_bleu=0.1,
        self_bleu_per_prompt=None,
        repetition=0.0,
        refusals=0.0,
        tokens_by_prompt=list(tokens),
        repetition_by_prompt=[0.0] * len(tokens),
    )
    return SampledAnswers(measure=measure, passed=list(passed), kl=list(kl or [0.0] * len(tokens)))


def run_path(
    method: str,
    points: Sequence[tuple[Row, Row, SampledAnswers | None]],
    rate: float = 1e-3,
    seed: int = 0,
    reference: SampledAnswers | None = None,
    tokens: Sequence[int] | None = None,
    data: str = "toy",
) -> RunPath:
    """Return a run whose points have chosen gains of pairs, rises of the loss on windows, and answers.

    Steps are 10, 20, ...; rejected answers keep their log-probs, so a pair's margin is BETA times its chosen gain, and
    the reference's loss is 2 on every window.
    """
    pairs, windows = len(points[0][0]), len(points[0][1])
    made = [
        PathPoint(
            step=10 * (number + 1),
            chosen=list(chosen),
            rejected=[0.0] * pairs,
            text=[2.0 + rise for rise in text],
            answers=sampled,
        )
        for number, (chosen, text, sampled) in enumerate(points)
    ]
    zeros = [0.0] * pairs
    path = PathResult(
        run=f"{method}-{rate}-{seed}",
        settings={},
        data={"pairs": Source(name="pairs", sha256="a" * 64, counts={"pairs": pairs})},
        model=Source(name="base", sha256="b" * 64),
        beta=BETA,
        text_tokens=list(tokens or [10] * windows),
        reference=PathPoint(step=0, chosen=zeros, rejected=zeros, text=[2.0] * windows, answers=reference),
        points=made,
        seed=0,
        command=["path"],
        versions={},
        device="a device",
        git_commit="0" * 40,
    )
    return RunPath(
        data=data,
        method=method,
        seed=seed,
        learning_rate=rate,
        status="finished",
        command=["path", f"runs/{method}"],
        path=path,
    )


def lost_path(method: str, rate: float = 1e-3, seed: int = 0, data: str = "toy") -> RunPath:
    """Return a run that diverged."""
    return RunPath(
        data=data, method=method, seed=seed, learning_rate=rate, status="diverged", reason="training diverged"
    )
