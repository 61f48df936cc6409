"""The benchmark's published files: read from paths where named, else fetched once from FastChat's repository."""

from __future__ import annotations

__all__ = ()

from dataclasses import dataclass
from pathlib import Path

from ropo.core.errors import UserError
from ropo.evaluation.mt_bench import FILES, PAGE, MtBenchSettings
from ropo.evaluation.mt_bench.prompts import JudgePrompts
from ropo.evaluation.mt_bench.questions import Answers, Question, read_answers, read_questions


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
