"""Sampled answers of a model, kept on disk under a name made from their content: never sampled twice."""

from __future__ import annotations

__all__ = ["answer_prompts"]

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from ropo.core.kept import content_key
from ropo.evaluation.contestants import Contestant
from ropo.evaluation.suites import Workplace
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.sampling import (
    Answer,
    Batch,
    PromptRecord,
    Sampler,
    SamplingSettings,
    prompts_digest,
    sample_with_journal,
    sampling_backend,
)


def answer_with_progress(
    contestant: Contestant, prompts: Sequence[PromptRecord], settings: SamplingSettings, workplace: Workplace
) -> list[list[Answer]]:
    """Return a model's answers as `answer_prompts` does, under a progress bar of their own."""
    with workplace.progress(f"sampling from {contestant.name}", len(prompts)) as advance:
        return answer_prompts(
            contestant,
            prompts,
            settings,
            workplace.batch_size,
            workplace.cache,
            lambda batch: advance(len(batch.prompts)),
        )


def answer_prompts(
    contestant: Contestant,
    prompts: Sequence[PromptRecord],
    settings: SamplingSettings,
    batch_size: int,
    cache: Path,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    sampler: Sampler | None = None,
) -> list[list[Answer]]:
    """Return a model's answers to prompts, sampled now or kept from an earlier run.

    The file's name is a hash of the model's content, the prompts' turns, the settings, and what decides rounding (batch
    size, and whether vLLM samples), so that another path to the same model finds the same answers, and a killed run
    goes on where it stopped.

    Args:
        contestant: The model.
        prompts: What to answer; may be empty.
        settings: How to sample.
        batch_size: Answers that are decoded at once.
        cache: Folder of the kept answers; made if missing.
        on_batch: Called with each batch, kept ones first; for a progress bar.
        sampler: The model, open, for one that answers several times; where None, it is opened for this call.

    Returns:
        For each prompt its `settings.samples` answers, in the order of the prompts.

    Raises:
        UserError: If the model cannot be loaded or has no chat template.

    Cost: see `ropo.lm.sampling.sample_batches`; the model is not even loaded when all answers are kept.
    """
    if not prompts:
        return []
    identity = fingerprint_source(contestant.source)
    wanted = {
        "model": identity,
        "prompts": prompts_digest(prompts),
        **asdict(settings),
        "batch_size": batch_size,
        "backend": sampling_backend(),
    }
    path = cache / "answers" / f"{content_key(wanted)}.jsonl"
    with nullcontext(sampler) if sampler else Sampler(contestant.source) as model:
        return sample_with_journal(model, prompts, settings, batch_size, path, on_batch, identity=identity)
