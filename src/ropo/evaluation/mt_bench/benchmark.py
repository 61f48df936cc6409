"""What is asked, and in which words: questions and the judge's prompts, as named or as FastChat publishes them."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from ropo.core.errors import UserError
from ropo.core.json_lines import read_json_lines
from ropo.evaluation.mt_bench import FILES, PAGE, MtBenchSettings
from ropo.evaluation.mt_bench.questions import Answers, Question, read_answers, read_questions
from ropo.lm.prompts import Turn

# (pairwise, guided, turn): the name that FastChat gives the prompt
NAMES = {
    (False, False, 1): "single-v1",
    (False, True, 1): "single-math-v1",
    (False, False, 2): "single-v1-multi-turn",
    (False, True, 2): "single-math-v1-multi-turn",
    (True, False, 1): "pair-v2",
    (True, True, 1): "pair-math-v1",
    (True, False, 2): "pair-v2-multi-turn",
    (True, True, 2): "pair-math-v1-multi-turn",
}


class JudgePrompts:
    """Ask for verdicts in the words of a file of prompts.

    Args:
        path: JSON Lines with `name`, `system_prompt` and `prompt_template`, whose fields stand in braces.
        kinds: Which prompts it has to have: those of single grades (False), of comparisons (True), or both.

    Raises:
        UserError: If the file is missing, a line is malformed, a prompt is missing, or one has an unknown field.
    """

    def __init__(self, path: Path, kinds: Collection[bool] = (False, True)) -> None:
        self._prompts: dict[str, tuple[str, str]] = {}
        for line, record in read_json_lines("judge prompts", path):
            where = f"judge prompts {path}:{line}"
            texts = [record.get(field) for field in ("name", "system_prompt", "prompt_template")]
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"{where}: needs the texts `name`, `system_prompt` and `prompt_template`; mend it")
            name, system, template = map(str, texts)
            self._prompts[name] = (system, template)
        for (pairwise, guided, turn), name in NAMES.items():
            if pairwise not in kinds:
                continue
            if name not in self._prompts:
                raise UserError(f"judge prompts {path}: have no prompt named {name}; add it")
            _check_template(path, name, self._prompts[name][1], set(_fields(pairwise, guided, turn)))

    def single(self, question: Question, turn: int, answers: Sequence[str], reference: Sequence[str]) -> list[Turn]:
        """Ask for the grade of the answer in a turn, 1 or 2."""
        return self._ask(question, turn, {"answer": answers}, reference)

    def pair(
        self, question: Question, turn: int, first: Sequence[str], second: Sequence[str], reference: Sequence[str]
    ) -> list[Turn]:
        """Ask which of two models' answers in a turn is better."""
        return self._ask(question, turn, {"answer_a": first, "answer_b": second}, reference)

    def _ask(
        self, question: Question, turn: int, answers: Mapping[str, Sequence[str]], reference: Sequence[str]
    ) -> list[Turn]:
        system, template = self._prompts[NAMES[len(answers) > 1, question.guided, turn]]
        values = {"question": question.turns[0]}
        for place in range(turn):
            values[f"question_{place + 1}"] = question.turns[place]
            for name, texts in answers.items():
                values[f"{name}_{place + 1}"] = texts[place]
                values.setdefault(name, texts[place])
            if question.guided:
                values[f"ref_answer_{place + 1}"] = reference[place]
        return [{"role": "system", "content": system}, {"role": "user", "content": template.format(**values)}]


def _fields(pairwise: bool, guided: bool, turn: int) -> list[str]:
    answers = ["answer_a", "answer_b"] if pairwise else ["answer"]
    bases = [*answers, *(["ref_answer"] if guided else []), "question"]
    numbered = [f"{base}_{place + 1}" for base in bases for place in range(turn)]
    return ["question", *answers, *numbered]


def _check_template(path: Path, name: str, template: str, known: set[str]) -> None:
    try:
        used = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise UserError(f"judge prompts {path}, prompt {name}: {error}; double a brace meant as such") from error
    if unknown := sorted(used - known):
        raise UserError(
            f"judge prompts {path}, prompt {name}: has the unknown field {json.dumps(unknown[0])}; known are "
            f"{', '.join(sorted(known))}"
        )


@dataclass(frozen=True)
class Benchmark:
    """What is asked, what the judge takes for right, and how it is asked.

    Attributes:
        name: Of the file of questions, for records.
        questions: In the order of their file.
        references: Answers to those of the questions that are judged against one.
        prompts: The judge's.
    """

    name: str
    questions: list[Question]
    references: Answers
    prompts: JudgePrompts


def read_benchmark(settings: MtBenchSettings) -> Benchmark:
    """Read the three files, each from its path, or as FastChat publishes it where no path is named.

    Raises:
        UserError: If a file breaks its format or cannot be fetched; if questions of your own need reference answers and
            none are named, as the published ones answer the published questions.
    """
    questions = read_questions(settings.questions or published_file("questions"), settings.limit)
    guided = [question for question in questions if question.guided]
    if guided and settings.questions is not None and settings.reference_answers is None:
        raise UserError(
            f"reference_answers: {len(guided)} questions of {settings.questions} are judged against a right answer "
            f"(the first is question_id {guided[0].number}, {guided[0].category}), got none; name a file of answers"
        )
    references: Answers = {}
    if guided:
        path = settings.reference_answers or published_file("reference_answers")
        references = read_answers(path, guided, "reference answers")
    return Benchmark(
        name=(settings.questions or Path(FILES["questions"])).name,
        questions=questions,
        references=references,
        prompts=JudgePrompts(
            settings.judge_prompts or published_file("judge_prompts"),
            {"single": [False], "pairwise": [True], "both": [False, True]}[settings.mode],
        ),
    )


def published_file(name: str) -> Path:
    """Return one of FastChat's files, from the cache of `datasets` or, the first time, from its repository.

    Args:
        name: A key of `FILES`, which is also the flag that names a file instead.

    Raises:
        UserError: If the file is not in the cache and cannot be fetched.
    """
    from datasets import DownloadConfig, DownloadManager

    url = f"{PAGE}/{FILES[name]}"
    try:
        # The address names a commit, so what the cache holds never grows old and is not asked for again.
        return Path(DownloadManager(download_config=DownloadConfig(use_etag=False)).download(url))
    except Exception as error:  # network errors have a dozen unrelated types
        raise UserError(f"{name}: cannot be fetched ({_cause(error)}); get {url} and name it with --{name}") from error


def _cause(error: BaseException) -> str:
    """Return the first line of what an error goes back to; of a broken connection `datasets` says just the address."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
