"""Measure the checkpoints of one run with the reference loaded once, and keep each as soon as it is measured."""

from __future__ import annotations

__all__ = ["measure_path"]

import copy
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.core.kept import content_key
from ropo.core.record import Measure, Source, read_typed
from ropo.diagnostics.answers import mean, measure_answers
from ropo.diagnostics.behaviour import kl_of_answers
from ropo.evaluation.path import PathSettings
from ropo.evaluation.path.held_out import PathData
from ropo.evaluation.path.results import PathPoint, PathResult, SampledAnswers
from ropo.evaluation.suites import Workplace
from ropo.lm.adapters import is_adapter, load_adapter
from ropo.lm.fingerprint import fingerprint_folder, fingerprint_source
from ropo.lm.loading import load_model
from ropo.lm.log_probs import answer_log_probs, mean_loss, text_losses
from ropo.lm.sampling import model_name, sample_answers
from ropo.lm.sampling.settings import Answer

_KEPT = "paths"


class _KeptPoint(Measure):
    """A measured checkpoint with what it was made from."""

    made_from: str
    point: PathPoint


class _ReferenceNumbers(Measure):
    """What the reference says of the held-out data: its log-probs of each pair, losses and answers."""

    log_probs: list[tuple[float, float]]
    text: list[float]
    answers: SampledAnswers | None


def places_to_measure(count: int, wanted: int | None) -> list[int]:
    """Choose some of the numbers below `count`, evenly spread, the last one included; all where `wanted` is None."""
    wanted = count if wanted is None else min(wanted, count)
    return [-(-count * (place + 1) // wanted) - 1 for place in range(wanted)]


def measure_path(
    run: Path,
    checkpoints: Sequence[tuple[int, Path]],
    reference: str,
    data: PathData,
    settings: PathSettings,
    workplace: Workplace,
    say: Callable[[str], None],
) -> PathResult:
    """Measure checkpoints of a run against their reference.

    Each checkpoint is a file in `workplace.output` as soon as it is measured; one that is there, of the same weights
    and settings, is not measured again. The reference's numbers are kept in `workplace.cache`, for all runs.

    Raises:
        UserError: If a model cannot be loaded, or its log-probs are not finite.

    Cost: the reference twice in memory. A checkpoint takes a forward pass over the pairs and the text, sampling, and
    one pass over the answers under either model.
    """
    chosen = [checkpoints[number] for number in places_to_measure(len(checkpoints), settings.checkpoints)]
    sampled = (
        {chosen[number][0] for number in places_to_measure(len(chosen), settings.sampled)} if data.prompts else set()
    )
    base = Source(name=model_name(reference), sha256=fingerprint_source(reference))
    how: dict[str, Any] = {"seed": workplace.seed, "batch_size": workplace.batch_size, "bf16": settings.bf16}
    how |= {"samples": settings.samples, "max_new_tokens": settings.max_new_tokens, "model": base.sha256}
    how |= {"limits": str(data.pairs.limits)} | {use: source.sha256 for use, source in data.sources.items()}
    marks = {
        step: content_key({**how, "checkpoint": fingerprint_folder(folder), "sampled": step in sampled})
        for step, folder in chosen
    }
    found = {step: _kept_point(_file_of(workplace.output, step), mark) for step, mark in marks.items()}
    points = {step: point for step, point in found.items() if point is not None}
    if points:
        say(f"{len(points)} of {len(chosen)} checkpoints are measured already")
    meter = _Meter(reference, data, settings, workplace)
    before = meter.reference_numbers(content_key({**how, "answers": bool(sampled)}), bool(sampled), say)
    clock, left = time.monotonic(), [each for each in chosen if each[0] not in points]
    for number, (step, folder) in enumerate(left):
        point = meter.point(step, str(folder), before, step in sampled)
        kept = _KeptPoint(made_from=marks[step], point=point)
        write_atomically(_file_of(workplace.output, step), kept.model_dump_json() + "\n")
        points[step] = point
        seconds = (time.monotonic() - clock) / (number + 1) * (len(left) - number - 1)
        say(f"{_describe(point, before.text, data)}; {timedelta(seconds=round(seconds))} left")
    zeros = [0.0] * len(data.pairs.records)
    told = {name: value for name, value in settings.shown().items() if name != "beta"}  # which stands by itself
    told |= {"pairs": model_name(settings.pairs), "plain_prompts": data.plain_prompts}
    return PathResult(
        run=run.name,
        settings=told | {"batch_size": workplace.batch_size},
        data=data.sources,
        model=base,
        beta=data.beta,
        text_tokens=[len(window.tokens) for window in data.windows],
        reference=PathPoint(step=0, chosen=zeros, rejected=zeros, text=before.text, answers=before.answers),
        points=[points[step] for step, _ in chosen],
        notes=list(data.pairs.notes()),
        seed=workplace.seed,
    )


def _describe(point: PathPoint, text: Sequence[float], data: PathData) -> str:
    """Write the means of a checkpoint as one line."""
    margins = point.margins(data.beta)
    loss = float(np.logaddexp(0.0, -margins).mean())
    parts = [f"step {point.step}: DPO loss {loss:.3f}, margin {float(margins.mean()):+.3f}"]
    parts.append(f"chosen {mean(point.chosen):+.2f}, rejected {mean(point.rejected):+.2f} nats")
    if point.text:
        parts.append(f"text loss {mean_loss(point.text, data.windows) - mean_loss(text, data.windows):+.4f}")
    if point.answers is not None:
        tokens = point.answers.measure.tokens
        parts.append(f"KL {mean(point.answers.kl) / tokens:.4f} nats per token, {tokens:.0f} tokens per answer")
        if point.answers.passed is not None:
            parts.append(f"{mean(point.answers.passed):.0%} pass")
    return ", ".join(parts)


class _Meter:
    """Measure models on the same data; the reference stays loaded, a policy is dropped as soon as it is measured."""

    def __init__(self, reference: str, data: PathData, settings: PathSettings, workplace: Workplace) -> None:
        self.source, self.data, self.settings, self.workplace = reference, data, settings, workplace
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.sequences = [each for pair in data.pairs.tokens for each in data.pairs.limits.cut(pair)]

    @cached_property
    def base(self) -> Any:
        """The reference, loaded when it is first needed."""
        return self._load(self.source)

    def _load(self, source: str) -> Any:
        loaded: Any = load_model(source)
        return loaded.to(self.device).eval()

    def reference_numbers(self, mark: str, with_answers: bool, say: Callable[[str], None]) -> _ReferenceNumbers:
        """Return the reference's numbers, measured now or kept."""
        file = self.workplace.cache / _KEPT / f"{mark}.json"
        if not file.is_file():
            say("measuring the reference")
            found = _ReferenceNumbers(
                log_probs=self._pairs(self.base),
                text=self._text(self.base),
                answers=self._answers(self.base, is_reference=True) if with_answers else None,
            )
            write_atomically(file, found.model_dump_json() + "\n")
        mends = ("measure again", "delete it and measure again")
        return read_typed(_ReferenceNumbers, file, "a reference's numbers of this version", *mends)

    def point(self, step: int, source: str, before: _ReferenceNumbers, with_answers: bool) -> PathPoint:
        """Measure one checkpoint."""
        policy = self._policy(source)
        exact = torch.float64
        gains = torch.tensor(self._pairs(policy), dtype=exact) - torch.tensor(before.log_probs, dtype=exact)
        if not bool(gains.isfinite().all()):
            raise UserError(f"checkpoint {source}: its log-probs are not finite; the run diverged before it")
        return PathPoint(
            step=step,
            chosen=gains[:, 0].tolist(),
            rejected=gains[:, 1].tolist(),
            text=self._text(policy),
            answers=self._answers(policy) if with_answers else None,
        )

    def _policy(self, source: str) -> Any:
        """Return a checkpoint's model; an adapter is merged into a copy of the reference, unless that is quantised."""
        if not is_adapter(source):
            return self._load(source)
        adapted: Any = load_adapter(copy.deepcopy(self.base), source)
        merges = not getattr(self.base, "is_quantized", False)
        return (adapted.merge_and_unload() if merges else adapted).to(self.device).eval()

    def _pairs(self, model: Any) -> list[tuple[float, float]]:
        scores = answer_log_probs(model, *([each[part] for each in self.sequences] for part in (0, 1)))
        sums = [float(each.double().sum()) for each in scores]
        return list(zip(sums[::2], sums[1::2], strict=True))

    def _text(self, model: Any) -> list[float]:
        return text_losses(model, self.data.windows) if self.data.windows else []

    def _answers(self, model: Any, is_reference: bool = False) -> SampledAnswers:
        """Answer the prompts once, for everything that is measured on answers."""
        data = self.data
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.settings.bf16):
            groups = sample_answers(model, data.tokenizer, data.encoded, data.sampling, self.workplace.batch_size)
        kl = [0.0] * len(groups) if is_reference else self._kl(model, groups)
        return SampledAnswers(measure=measure_answers(groups, len(data.tokenizer)), passed=data.passed(groups), kl=kl)

    def _kl(self, model: Any, groups: Sequence[Sequence[Answer]]) -> list[float]:
        contexts = [ids for ids, group in zip(self.data.encoded, groups, strict=True) for _ in group]
        answers = [answer.tokens for group in groups for answer in group]
        policy, reference = (answer_log_probs(each, contexts, answers) for each in (model, self.base))
        mask = pad_sequence([torch.ones(len(each), dtype=torch.bool) for each in policy], batch_first=True)
        padded = [pad_sequence(scores, batch_first=True) for scores in (policy, reference)]
        each = kl_of_answers(padded[0], padded[1], mask).view(len(groups), -1)
        return each.mean(dim=1).tolist()


def _file_of(output: Path, step: int) -> Path:
    return output / f"step-{step}.json"


def _kept_point(file: Path, mark: str) -> PathPoint | None:
    """Return a measured checkpoint, unless it was made from something else."""
    if not file.is_file():
        return None
    kept = read_typed(_KeptPoint, file, "a measured checkpoint of this version", "measure again", "delete it")
    return kept.point if kept.made_from == mark else None
