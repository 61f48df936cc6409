"""`experiments/evidence/join.py`: parts of a comparison, joined, are the comparison."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from experiments.evidence.join import join, read
from ropo.comparison.results import ComparisonResult

EVIDENCE = Path(__file__).parents[2] / "experiments" / "evidence"
FRONTIER = EVIDENCE / "frontier.json.gz"


@pytest.fixture(scope="module")
def whole():
    return read(FRONTIER)


@pytest.mark.parametrize("file", sorted(EVIDENCE.glob("*.json.gz")), ids=lambda file: file.name)
def test_kept_results_can_be_read(file):
    assert ComparisonResult.model_validate_json(gzip.decompress(file.read_bytes())).runs


def part(result, keep):
    """Return a result as if its recipe had asked only for the runs that are kept."""
    methods = []
    for method in result.recipe["methods"]:
        rates = [rate for rate in method["learning_rates"] if keep(method["label"], rate)]
        methods += [{**method, "learning_rates": rates}] if rates else []
    selections = [
        each.model_copy(
            update={"candidates": [rate for rate in each.candidates if keep(each.method, rate.learning_rate)]}
        )
        for each in result.selections
    ]
    return result.model_copy(
        update={
            "recipe": {**result.recipe, "methods": methods},
            "selections": [each for each in selections if each.candidates],
            "runs": [run for run in result.runs if keep(run.method, run.learning_rate)],
            "paths": [path for path in result.paths if keep(path.method, path.learning_rate)],
            "equal_gains": [],
        }
    )


def test_two_parts_are_the_whole(whole):
    later = {("RoPO", 0.002), ("LoRA", 0.00025), ("RoPO without magnitude", 0.001)}
    first = part(whole, lambda *run: run not in later)
    joined = join([first, part(whole, lambda *run: run in later)])
    rates = {method["label"]: method["learning_rates"] for method in whole.recipe["methods"]}
    assert {method["label"]: method["learning_rates"] for method in joined.recipe["methods"]} == rates
    chosen = {"RoPO": 0.002, "LoRA": 0.001, "RoPO without magnitude": 0.004, "OFT": 0.0004}
    assert {each.method: each.chosen for each in joined.selections} == chosen
    assert joined.selections == whole.selections
    runs = {(each.method, each.learning_rate): each for each in whole.paths}
    assert {(each.method, each.learning_rate): each for each in joined.paths} == runs
    assert {each.name for each in joined.runs} == {each.name for each in whole.runs}
    at = {(each.method, each.gain, each.cost, each.share): each.difference for each in whole.equal_gains}
    assert {(each.method, each.gain, each.cost, each.share): each.difference for each in joined.equal_gains} == at


def test_a_result_is_read_whatever_follows_its_folder_in_the_command():
    assert read(EVIDENCE / "frontier-seeds.json.gz").paths


def test_all_runs_are_compared_with_one_sample_of_the_reference(whole):
    other = part(whole, lambda *run: run == ("RoPO", 0.002))
    path = other.paths[0].path
    answers = path.reference.answers
    assert answers is not None
    drawn_anew = answers.model_copy(update={"passed": [not each for each in answers.passed]})
    reference = path.reference.model_copy(update={"answers": drawn_anew})
    moved = other.paths[0].model_copy(update={"path": path.model_copy(update={"reference": reference})})
    rest = part(whole, lambda *run: run != ("RoPO", 0.002))
    joined = join([rest, other.model_copy(update={"paths": [moved]})])
    assert all(each.path.reference == path.reference for each in joined.paths)


def test_a_run_twice_or_measured_otherwise_is_refused(whole):
    one = part(whole, lambda *run: run == ("RoPO", 0.002))
    with pytest.raises(SystemExit, match="two results"):
        join([whole, one])
    path = one.paths[0]
    other = path.model_copy(update={"learning_rate": 0.003, "path": path.path.model_copy(update={"beta": 0.2})})
    with pytest.raises(SystemExit, match="measured otherwise"):
        join([whole, one.model_copy(update={"paths": [other]})])
