"""Sample answers from every model with the same random numbers, and compare their variety."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from ropo.core.record import Source
from ropo.evaluation.contestants import Contestant, answer_with_progress, model_results
from ropo.evaluation.diversity import DiversitySettings
from ropo.evaluation.diversity.embeddings import LONGEST, Encoder, default_encoder
from ropo.evaluation.diversity.metrics import diversity_values, embedding_values
from ropo.evaluation.results import SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import Answer, model_name, prompts_digest, read_prompts


def measure(contestants: Sequence[Contestant], settings: DiversitySettings, workplace: Workplace) -> SuiteResult:
    """Sample answers from every model and compare their variety prompt by prompt.

    Raises:
        UserError: If a prompt is malformed, or a model or the encoder cannot be loaded.

    Cost: generation, none for answers that are kept; then see `ropo.evaluation.diversity.metrics.diversity_values`.
    """
    prompts = read_prompts(settings.prompts)[: settings.max_prompts]
    source = settings.embedding_model or default_encoder()
    encoder = None if source == "none" else Encoder(source)
    fingerprints = [fingerprint_source(each.source) for each in contestants]
    answers = [
        answer_with_progress(each, prompts, settings.sampling(workplace.seed), workplace) for each in contestants
    ]
    tokenizer: Any = load_tokenizer(contestants[0].source)  # one for all models, so that their numbers compare
    spoken = [np.array([[bool(each.text.strip()) for each in group] for group in groups]) for groups in answers]
    all_speak = np.logical_and.reduce([each[:, 0] for each in spoken])
    of_models = [
        _values_of(groups, tokenizer) | (_embedded(groups, encoder, each, all_speak) if encoder else {})
        for groups, each in zip(answers, spoken, strict=True)
    ]
    shared = leave_out_undefined(of_models)
    encoded = {"embedding_model": "none" if encoder is None else model_name(source)}
    data = Source(name=settings.prompts.name, sha256=prompts_digest(prompts), counts={"prompts": len(prompts)})
    return SuiteResult(
        suite="diversity",
        settings={**settings.shown(), **encoded, "batch_size": workplace.batch_size},
        data={"prompts": data},
        models=model_results(contestants, fingerprints, shared, "prompts", workplace.seed),
        notes=_notes_on(of_models, shared, contestants[0].name, encoder is not None),
        seed=workplace.seed,
    )


def leave_out_undefined(of_models: Sequence[Mapping[str, UnitValues]]) -> list[dict[str, UnitValues]]:
    """Keep of each metric the prompts that define it for every model, so that all models have the same ones.

    A metric that no prompt defines for all of them is left out.
    """
    undefined: dict[str, Any] = {}
    for each in of_models:
        for name, values in each.items():
            if values.whole is None:
                undefined[name] = undefined.get(name, False) | np.isnan(values.values)
    return [
        {
            name: replace(values, used=~undefined[name]) if np.any(undefined.get(name, False)) else values
            for name, values in each.items()
            if not np.all(undefined.get(name, False))
        }
        for each in of_models
    ]


def _notes_on(
    measured: Sequence[Mapping[str, UnitValues]],
    of_models: Sequence[Mapping[str, UnitValues]],
    tokenizer: str,
    embedded: bool,
) -> list[str]:
    """Say what the numbers rest on, and what they leave out."""
    notes = [f"expectation-adjusted distinct counts tokens of {tokenizer}'s tokenizer, for every model"]
    if embedded:
        notes.append(f"embeddings see the first {LONGEST} tokens of an answer")
    if missing := [name for name in measured[0] if name not in of_models[0]]:
        notes.append(f"{', '.join(missing)}: left out, as some model's answers define it for no prompt")
    for name, values in of_models[0].items():
        if values.used is not None:
            notes.append(
                f"{name}: {int((~values.used).sum())} prompts left out, as some model's answers are empty there"
            )
    return notes


def _values_of(groups: Sequence[Sequence[Answer]], tokenizer: Any) -> dict[str, UnitValues]:
    ids = [[tokenizer(answer.text, add_special_tokens=False)["input_ids"] for answer in group] for group in groups]
    return diversity_values(groups, ids, len(tokenizer))


def _embedded(
    groups: Sequence[Sequence[Answer]],
    encoder: Encoder,
    spoken: Bool[np.ndarray, "prompts samples"],
    all_speak: Bool[np.ndarray, " prompts"],
) -> dict[str, UnitValues]:
    vectors = encoder([answer.text for group in groups for answer in group])
    return embedding_values(vectors.reshape(len(groups), len(groups[0]), -1), spoken, all_speak)
