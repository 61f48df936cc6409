"""Answer the questions with every model, have the answers judged, and report."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.core.record import Source
from ropo.evaluation.contestants import Contestant, answer_prompts, file_name
from ropo.evaluation.mt_bench import VERDICT_TOKENS, MtBenchSettings
from ropo.evaluation.mt_bench.benchmark import Benchmark, read_benchmark
from ropo.evaluation.mt_bench.grading import Grades, grade, grade_pairs
from ropo.evaluation.mt_bench.metrics import SCORE, WIN_RATE, change_of, details_of, metrics_for, notes_on
from ropo.evaluation.mt_bench.questions import (
    TURNS,
    Answers,
    Question,
    is_answers_file,
    read_answers,
    write_answers,
)
from ropo.evaluation.results import Change, Metric, ModelResult, SuiteResult
from ropo.evaluation.suites import Workplace
from ropo.judging.chat import ChatJudge
from ropo.judging.judge import WARNING, Meter, warnings_first
from ropo.judging.options import load_chat_judge
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.sampling import PromptRecord, Sampler, SamplingSettings, model_name


def measure(contestants: Sequence[Contestant], settings: MtBenchSettings, workplace: Workplace) -> SuiteResult:
    """Answer, judge and report.

    Beside the result, the output folder gets `answers/` in FastChat's format, and `judgments/`.

    Raises:
        UserError: If questions, answers or prompts break their format, or the judge cannot be asked or answers nothing.

    Cost: two answers per question and model; two verdicts on them where graded, four where compared.
    """
    if settings.mode == "pairwise" and len(contestants) < 2:
        raise UserError("mode pairwise: needs a second model to compare with the first, got one; name another")
    benchmark = read_benchmark(settings)
    questions = benchmark.questions
    given = {
        each.name: read_answers(Path(each.source), questions, "answers")
        for each in contestants
        if is_answers_file(each.source)
    }
    judge = load_chat_judge(settings, workplace.cache / "verdicts", workplace.batch_size, VERDICT_TOKENS)
    fingerprints = [None if each.name in given else fingerprint_source(each.source) for each in contestants]
    answers = {
        each.name: given.get(each.name) or answer_questions(each, questions, settings.max_new_tokens, workplace)
        for each in contestants
    }
    models, notes = [], []
    first: dict[str, tuple[str, Grades]] = {}  # what the changes of each number are from
    for each, fingerprint in zip(contestants, fingerprints, strict=True):
        path = workplace.output / "answers" / file_name(each.name, "jsonl")
        write_answers(path, each.name, questions, answers[each.name])
        judge.meter = Meter()  # the counts are each model's own
        found = _judge(judge, each.name, contestants[0].name, benchmark, answers, settings, workplace)
        metrics, changes, details, said = _report(found, first, questions, workplace.seed)
        first = {kind: (each.name, grades) for kind, grades in found.items()} | first
        notes += [_under(each.name, line) for line in said]
        details["judge"] = judge.meter.summary(settings.judge_input_price, settings.judge_output_price)
        models.append(
            ModelResult(
                name=each.name,
                source=model_name(each.source),
                fingerprint=fingerprint,
                metrics=metrics,
                changes=changes,
                details=details,
            )
        )
    return SuiteResult(
        suite="mt-bench",
        settings={**settings.shown(), "judge": judge.name, "judge_max_tokens": judge.longest},
        data={"questions": _source(benchmark)},
        models=models,
        notes=warnings_first(
            [f"grades are those of {judge.name}; they compare only with grades of the same judge", *notes]
        ),
        seed=workplace.seed,
    )


def answer_questions(
    contestant: Contestant, questions: Sequence[Question], max_new_tokens: int, workplace: Workplace
) -> Answers:
    """Answer both turns of every question, each question at its category's temperature.

    Cost: two answers per question, and one loading of the model; questions of one temperature share batches.
    """
    answers: Answers = {question.number: [] for question in questions}
    show = workplace.progress(f"answering with {contestant.name}", TURNS * len(questions))
    with show as advance, Sampler(contestant.source) as sampler:
        for turn in range(TURNS):
            for temperature in sorted({question.temperature for question in questions}):
                group = [question for question in questions if question.temperature == temperature]
                found = answer_prompts(
                    contestant,
                    [_prompt_of(question, answers[question.number]) for question in group],
                    SamplingSettings(
                        temperature=temperature,
                        max_new_tokens=max_new_tokens,
                        seed=workplace.seed + turn,
                    ),
                    workplace.batch_size,
                    workplace.cache,
                    lambda batch: advance(len(batch.prompts)),
                    sampler,
                )
                for question, (answer,) in zip(group, found, strict=True):
                    answers[question.number].append(answer.text)
    return answers


def _prompt_of(question: Question, answered: Sequence[str]) -> PromptRecord:
    """Return the conversation up to the user's next turn."""
    turns = []
    for place in range(len(answered) + 1):
        turns.append({"role": "user", "content": question.turns[place]})
        if place < len(answered):
            turns.append({"role": "assistant", "content": answered[place]})
    return PromptRecord({}, turns, question.number)


def _judge(
    judge: ChatJudge,
    name: str,
    first: str,
    benchmark: Benchmark,
    answers: Mapping[str, Answers],
    settings: MtBenchSettings,
    workplace: Workplace,
) -> dict[str, Grades]:
    """Have one model graded, compared with the first, or both, and write down what was said."""
    questions, references = benchmark.questions, benchmark.references
    found: dict[str, Grades] = {}
    verdicts = TURNS * len(questions)
    if settings.mode != "pairwise":
        with workplace.progress(f"grading {name}", verdicts) as advance:
            found[SCORE] = grade(judge, benchmark.prompts, questions, answers[name], references, advance)
    if settings.mode != "single" and name != first:
        with workplace.progress(f"comparing {name}", 2 * verdicts) as advance:
            found[WIN_RATE] = grade_pairs(
                judge, benchmark.prompts, questions, answers[name], answers[first], references, advance
            )
    if found and not judge.meter.answered:
        raise UserError(f"judge {judge.name}: answered no question ({judge.meter.why}); check the server and its URL")
    for kind, grades in found.items():
        lines = "".join(json.dumps(verdict, ensure_ascii=False) + "\n" for verdict in grades.verdicts)
        write_atomically(workplace.output / "judgments" / kind / file_name(name, "jsonl"), lines)
    return found


def _report(
    found: Mapping[str, Grades],
    first: Mapping[str, tuple[str, Grades]],
    questions: Sequence[Question],
    seed: int,
) -> tuple[list[Metric], list[Change], dict[str, Any], list[str]]:
    metrics: list[Metric] = []
    changes: list[Change] = []
    details: dict[str, Any] = {}
    notes: list[str] = []
    for name, grades in found.items():
        metrics += metrics_for(name, grades, questions, seed)
        details |= details_of(name, grades, questions)
        notes += notes_on(name, grades)
        if name in first:
            reference, others = first[name]
            changes.append(change_of(name, grades, others, reference, seed))
    return metrics, changes, details, notes


def _under(name: str, line: str) -> str:
    """Put a model's name before a note, behind its warning if it is one."""
    loud, _, rest = line.rpartition(WARNING)
    return f"{WARNING if line.startswith(WARNING) else loud}{name}, {rest}"


def _source(benchmark: Benchmark) -> Source:
    content = json.dumps([[question.number, question.category, question.turns] for question in benchmark.questions])
    return Source.of(benchmark.name, content, questions=len(benchmark.questions))
