"""A few answers side by side, from those that an evaluation kept."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping
from pathlib import Path

from ropo.comparison.cells import CACHE
from ropo.comparison.results import SideBySideAnswers
from ropo.evaluation.answers import answer_prompts
from ropo.evaluation.contestants import Contestant
from ropo.evaluation.results import SuiteResult
from ropo.instructions import satisfied
from ropo.lm.sampling import SamplingSettings, read_prompts

SAMPLED = ("instructions", "diversity")  # suites whose result says how they sampled


def samples_of(
    data: str, result: SuiteResult, prompts: Path, models: Mapping[str, str], count: int, output: Path
) -> list[SideBySideAnswers]:
    """Return the first answers to a few prompts, spread over the file and not chosen by their success.

    Args:
        data: Name of the data set.
        result: Of a suite in `SAMPLED` that has answered them.
        prompts: The prompts that it read.
        models: What to show: source by run name.
        count: Prompts to show.
        output: The comparison's folder, whose cache holds the answers.
    """
    settings = result.settings
    asked = read_prompts(prompts)[: settings["max_prompts"]]
    names = ("samples", "temperature", "top_p", "max_new_tokens")
    sampling = SamplingSettings(**{name: settings[name] for name in names}, seed=result.seed)
    answers = {
        name: answer_prompts(Contestant(name, source), asked, sampling, settings["batch_size"], output / CACHE)
        for name, source in models.items()
    }
    shown = sorted({number * len(asked) // count for number in range(count)}) if count else []
    samples = []
    for number in shown:
        texts = {name: given[number][0].text for name, given in answers.items()}
        told = asked[number].fields.get("instructions") if result.suite == "instructions" else None
        passed = {name: bool(all(satisfied(told, text))) for name, text in texts.items()} if told else {}
        samples.append(
            SideBySideAnswers(data=data, prompt=asked[number].turns[-1]["content"], answers=texts, passed=passed)
        )
    return samples
