"""Sample answers from every model with the same random numbers, and check what their prompts asked for."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Sequence

import numpy as np

from ropo.core.record import Source
from ropo.evaluation.contestants import Contestant, answer_with_progress, model_results
from ropo.evaluation.instructions import InstructionSettings
from ropo.evaluation.results import SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues
from ropo.instructions import check_instructions, satisfied
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.sampling import Answer, PromptRecord, read_prompts


def measure(contestants: Sequence[Contestant], settings: InstructionSettings, workplace: Workplace) -> SuiteResult:
    """Compare how often models follow instructions that a program can check.

    Raises:
        UserError: If a prompt is malformed or has no instructions, or a model cannot be loaded.

    Cost: generation, none for answers that are kept; checking is nothing beside it.
    """
    prompts = read_prompts(settings.prompts)[: settings.max_prompts]
    for prompt in prompts:  # before anything is sampled
        check_instructions(prompt.fields.get("instructions"), f"prompts {settings.prompts}:{prompt.line}")
    sampling = settings.sampling(workplace.seed)
    fingerprints = [fingerprint_source(each.source) for each in contestants]
    of_models = [
        instruction_values(prompts, answer_with_progress(each, prompts, sampling, workplace)) for each in contestants
    ]
    content = json.dumps([prompt.fields for prompt in prompts], sort_keys=True)
    return SuiteResult(
        suite="instructions",
        settings={**settings.shown(), "batch_size": workplace.batch_size},
        data={"prompts": Source.of(settings.prompts.name, content, prompts=len(prompts))},
        models=model_results(contestants, fingerprints, of_models, "prompts", workplace.seed),
        seed=workplace.seed,
    )


def instruction_values(prompts: Sequence[PromptRecord], answers: Sequence[Sequence[Answer]]) -> dict[str, UnitValues]:
    """Read what the answers did.

    Returns:
        `passes`: the share of a prompt's answers that satisfy all its instructions; `passes_NAME`: the share that
        satisfies the instruction of that name, over the prompts that have it; `tokens`; `cut_off`: the share of
        answers that ran into the limit. With one answer per prompt, shares are true or false.
    """
    checks: list[np.ndarray] = [
        np.array([satisfied(prompt.fields["instructions"], answer.text) for answer in group])  # (samples, instructions)
        for prompt, group in zip(prompts, answers, strict=True)
    ]
    by_metric = {"passes": _share([_all(check) for check in checks], "answers that do all they were told")}
    for name in sorted({each["name"] for prompt in prompts for each in prompt.fields["instructions"]}):
        asked = [[each["name"] == name for each in prompt.fields["instructions"]] for prompt in prompts]
        passed = [_all(check[:, columns]) for check, columns in zip(checks, asked, strict=True)]
        used = np.array([any(columns) for columns in asked])
        by_metric[f"passes_{name}"] = _share(passed, f"answers that satisfy {name}, where it is asked for", used)
    lengths = np.array([np.mean([len(answer.tokens) for answer in group]) for group in answers])
    by_metric["tokens"] = UnitValues(lengths, "length of an answer in tokens")
    cut_off = [np.array([not answer.finished for answer in group]) for group in answers]
    by_metric["cut_off"] = _share(cut_off, "answers that ran into max_new_tokens")
    return by_metric


def _all(checks: np.ndarray) -> np.ndarray:
    """Say of each answer whether it passes all of its checks; of none it passes all."""
    return np.asarray(checks.all(axis=1))


def _share(outcomes: Sequence[np.ndarray], meaning: str, used: np.ndarray | None = None) -> UnitValues:
    """Read the share of each prompt's answers; a single answer stays true or false, for Wilson and McNemar."""
    if len(outcomes[0]) == 1:
        return UnitValues(np.array([bool(outcome[0]) for outcome in outcomes]), f"share of {meaning}", used)
    return UnitValues(np.array([outcome.mean() for outcome in outcomes]), f"share of {meaning}", used)
