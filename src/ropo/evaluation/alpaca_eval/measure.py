"""Answer the prompts with every model, have the answers judged against a reference's, and report."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
from jaxtyping import Float

from ropo.core.errors import UserError
from ropo.core.record import Source
from ropo.evaluation.alpaca_eval import VERDICT_TOKENS, AlpacaEvalSettings, formats
from ropo.evaluation.alpaca_eval.formats import Outputs
from ropo.evaluation.alpaca_eval.metrics import (
    UNITS,
    Judged,
    Verdicts,
    changes_for,
    characters,
    details_of,
    length_values,
    metrics_for,
    notes_on,
)
from ropo.evaluation.alpaca_eval.win_rates import NO_VERDICT
from ropo.evaluation.contestants import Contestant, answer_with_progress, file_name
from ropo.evaluation.results import ModelResult, SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import metrics_of
from ropo.judging.judge import Duel, Judge, Meter, check_orders, count_read, count_reasons
from ropo.judging.options import load_judge
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.sampling import PromptRecord, SamplingSettings, model_name, read_prompts


def measure(contestants: Sequence[Contestant], settings: AlpacaEvalSettings, workplace: Workplace) -> SuiteResult:
    """Answer, judge and report.

    Beside the result, the output folder gets `outputs/` and `annotations/` in AlpacaEval's formats.

    Returns:
        The result; with `against_first` the first model has no win rate, as it is the reference.

    Raises:
        UserError: If prompts or outputs break their format, or the judge cannot be asked or answers nothing at all.

    Cost: one answer per prompt and model, a verdict on each, and a second one where both orders are judged.
    """
    if settings.against_first and len(contestants) < 2:
        raise UserError("against_first: needs a second model to judge, got one; name another")
    prompts, reference, order = _read_inputs(settings)
    brings_reference = settings.against_first or settings.reference_outputs is not None
    known = settings.difficulties or (None if brings_reference else formats.difficulties_file())
    difficulties = formats.read_difficulties(known, prompts, order) if known else None
    given = {each.name: _given_outputs(each, prompts) for each in contestants}
    judge = load_judge(settings, workplace.cache / "verdicts", workplace.batch_size, VERDICT_TOKENS)
    for prompt in prompts:  # costs nothing, so mistakes in them are found before sampling
        judge.check(prompt)
    fingerprints = [None if given[each.name] else fingerprint_source(each.source) for each in contestants]
    outputs = {each.name: given[each.name] or _answer(each, prompts, settings, workplace) for each in contestants}
    for name, written in outputs.items():
        formats.write_outputs(workplace.output / "outputs" / file_name(name, "json"), prompts, written)
    base = reference or outputs[contestants[0].name]
    judged: dict[str, Judged] = {}
    models = []
    for each, fingerprint in zip(contestants, fingerprints, strict=True):
        written = outputs[each.name]
        result = ModelResult(name=each.name, source=model_name(each.source), fingerprint=fingerprint, metrics=[])
        if written is base:
            metrics = metrics_of(length_values(characters(written.texts)), UNITS, workplace.seed)
            models.append(result.model_copy(update={"metrics": metrics}))
            continue
        judge.meter = Meter()  # the counts are each model's own
        found = _judge(each.name, judge, prompts, written, base, difficulties, settings.swapped, workplace)
        first = next(iter(judged.items()), None)
        cost = judge.meter.summary(settings.judge_input_price, settings.judge_output_price)
        update = {
            "metrics": metrics_for(found, workplace.seed),
            "changes": changes_for(found, first[1], first[0], workplace.seed) if first else [],
            "details": details_of(found, cost),
        }
        models.append(result.model_copy(update=update))
        judged[each.name] = found
    return SuiteResult(
        suite="alpaca-eval",
        settings={
            **settings.shown(),
            "judge": judge.name,
            "judge_max_tokens": judge.longest,
            "reference": base.generator,
        },
        data={"prompts": _source(settings, prompts)},
        models=models,
        notes=notes_on(judged, base.generator),
        seed=workplace.seed,
    )


def _read_inputs(settings: AlpacaEvalSettings) -> tuple[list[PromptRecord], Outputs | None, list[str]]:
    """Read the prompts, and the reference's outputs to them unless the first model is the reference.

    Returns:
        The prompts, the outputs, and all instructions in the order of their file.
    """
    if settings.against_first and settings.prompts is not None:
        prompts = read_prompts(settings.prompts)
        return prompts[: settings.limit], None, [formats.instruction_of(prompt) for prompt in prompts]
    path = settings.reference_outputs or formats.reference_file()
    records = formats.read_output_records(path)
    prompts = read_prompts(settings.prompts) if settings.prompts else formats.prompts_of(records)
    prompts = prompts[: settings.limit]
    outputs = formats.outputs_for(prompts, records, path, path.stem)
    return prompts, outputs, [record["instruction"] for record in records]


def _given_outputs(contestant: Contestant, prompts: Sequence[PromptRecord]) -> Outputs | None:
    if not formats.is_outputs_file(contestant.source):
        return None
    path = Path(contestant.source)
    found = formats.outputs_for(prompts, formats.read_output_records(path), path, contestant.name)
    return Outputs(contestant.name, found.texts)


def _answer(
    contestant: Contestant, prompts: Sequence[PromptRecord], settings: AlpacaEvalSettings, workplace: Workplace
) -> Outputs:
    sampling = SamplingSettings(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        seed=workplace.seed,
    )
    answers = answer_with_progress(contestant, prompts, sampling, workplace)
    return Outputs(contestant.name, [samples[0].text for samples in answers])


def _judge(
    name: str,
    judge: Judge,
    prompts: Sequence[PromptRecord],
    outputs: Outputs,
    base: Outputs,
    difficulties: Float[np.ndarray, " n"] | None,
    swapped: int,
    workplace: Workplace,
) -> Judged:
    """Judge one model's outputs and write the annotations."""
    with workplace.progress(f"judging {name}", duels_to_judge(outputs, base, swapped)) as advance:
        verdicts = judge_outputs(judge, prompts, outputs, base, workplace.seed, swapped, advance)
    if (asked := len(prompts) - verdicts.equal) and not judge.meter.answered:  # the numbers would be those of ties
        why = judge.meter.why
        raise UserError(f"judge {judge.name}: answered none of {asked} questions ({why}); check the server and its URL")
    wins = [None if gone else float(win) for win, gone in zip(verdicts.wins, verdicts.missing, strict=True)]
    path = workplace.output / "annotations" / file_name(name, "json")
    formats.write_annotations(path, prompts, base, outputs, wins, judge.name)
    return Judged(verdicts, characters(outputs.texts), characters(base.texts), difficulties)


def judge_outputs(
    judge: Judge,
    prompts: Sequence[PromptRecord],
    outputs: Outputs,
    reference: Outputs,
    seed: int,
    swapped: int,
    advance: Callable[[int], None] = lambda duels: None,
) -> Verdicts:
    """Ask a judge about every prompt, and about some of them in both orders.

    The order of the two outputs is drawn from the seed and the instruction, so it does not depend on which other
    prompts there are; the `swapped` ones, at most so many, are drawn from the seed.
    """
    asked = [i for i in range(len(prompts)) if outputs.texts[i] != reference.texts[i]]
    model_first = {i: Random(f"{seed} {formats.instruction_of(prompts[i])}").random() < 0.5 for i in asked}
    duels = {i: Duel(prompts[i], outputs.texts[i], reference.texts[i]) for i in asked}
    shown = {i: duel if model_first[i] else duel.swapped() for i, duel in duels.items()}
    both = sorted(Random(f"{seed} swapped").sample(asked, min(swapped, len(asked))))
    found = judge.prefer([*shown.values(), *(shown[i].swapped() for i in both)], advance)
    verdicts = dict(zip(asked, found, strict=False))
    wins = np.full(len(prompts), NO_VERDICT)
    missing = np.zeros(len(prompts), dtype=bool)
    for i, verdict in verdicts.items():
        missing[i] = verdict.value is None
        if verdict.value is not None:
            wins[i] = 1.0 - verdict.value if model_first[i] else verdict.value
    orders = check_orders([verdicts[i] for i in both], found[len(asked) :])
    reasons = count_reasons(list(verdicts.values()))
    return Verdicts(wins, missing, reasons, orders, len(prompts) - len(asked), count_read(found))


def duels_to_judge(outputs: Outputs, reference: Outputs, swapped: int) -> int:
    """Return how many duels `judge_outputs` asks about."""
    asked = sum(one != other for one, other in zip(outputs.texts, reference.texts, strict=True))
    return asked + min(swapped, asked)


def _source(settings: AlpacaEvalSettings, prompts: Sequence[PromptRecord]) -> Source:
    path = settings.prompts or settings.reference_outputs
    content = json.dumps([prompt.turns for prompt in prompts])
    return Source.of(path.name if path else f"{formats.HUB}/{formats.REFERENCE}", content, prompts=len(prompts))
