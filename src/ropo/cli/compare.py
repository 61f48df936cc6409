"""`ropo compare`: several methods on the same data with the same budget."""

from __future__ import annotations

__all__ = ()

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ropo.cli.evaluate import console_of_tables, suite_flags
from ropo.cli.extras import libraries_of
from ropo.cli.parser import Parser
from ropo.cli.quiet import quiet_libraries
from ropo.cli.report import page_writer
from ropo.core.errors import RunStoppedError, UserError
from ropo.evaluation.suites import load_suite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ropo.comparison.data import PreparedData
    from ropo.comparison.reading import RecipeFile
    from ropo.comparison.results import ComparisonResult

PAGE = "report.html"
HELP = "train, evaluate and diagnose the methods of a recipe on the same data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="what to compare; see docs/comparison.md")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to make, or of a comparison to carry on"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="commands at a time, each in a process of its own (1)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Do what is not finished yet, and write `results.json` and `report.html`.

    Raises:
        RunStoppedError: If a run failed; one that diverged is a result.
    """
    from ropo.comparison.bench import SideBySide
    from ropo.comparison.compare import compare_methods
    from ropo.comparison.execution import locked, run_in_process_of_its_own  # Unix only; help is not
    from ropo.comparison.reading import RecipeFile

    output, side = arguments.output, SideBySide(arguments.jobs)
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output}: is a file; name a folder")
    write_page = page_writer()
    file = RecipeFile(arguments.recipe)
    quiet_libraries()
    check_commands(file)
    with locked(output) as lock:
        data = prepare(file, output)
        say = partial(print, flush=True)
        execute = partial(
            run_in_process_of_its_own,
            kept_open=(lock,),
            tell=lambda log, line: say(f"    {line}" if side.jobs == 1 else f"    {log.stem}, {line}"),
            ended=side.ended,
        )
        result = compare_methods(file.recipe, data, output, execute, say, side)
        result.write(output)
        write_page(result, output / PAGE)
        written = [output / "results.json", output / PAGE, *_write_figures(result, output)]
    _print_end(result)
    print(f"written to {', '.join(map(str, written))}; each command's lines are in {output / 'logs'}")
    runs = result.paths or result.runs  # those of a frontier are among its paths
    if failed := sum(run.status == "failed" for run in runs):
        raise RunStoppedError(
            f"{failed} of {len(runs)} runs failed, for the reasons above, and are missing "
            "from the tables; the same command tries them again"
        )


def _write_figures(result: ComparisonResult, output: Path) -> list[Path]:
    """Write the frontiers of each data set as a figure for places without scripts; return the files."""
    from ropo.report.figures.svg import write_frontier

    names = list(dict.fromkeys(run.data for run in result.paths if run.path is not None))
    files = {name: output / ("frontier.svg" if len(names) == 1 else f"frontier-{name}.svg") for name in names}
    for name, file in files.items():
        write_frontier(result, file, name)
    return list(files.values())


def _print_end(result: ComparisonResult) -> None:
    """Print what came of it as tables."""
    from ropo.report.console import print_comparison

    print_comparison(result, console_of_tables())


def check_commands(file: RecipeFile) -> None:
    """Let the parsers of `ropo train` and `ropo evaluate` check every method and evaluation before anything runs.

    Raises:
        UserError: With the line of the recipe.
    """
    from ropo.comparison.cells import as_flags, settings_of
    from ropo.comparison.frontier.options import lost_checkpoints

    recipe = file.recipe
    watched = all(data.validation or data.validation_share for data in recipe.data)
    files = ["--model", recipe.model, "--data", "-", "--output", "-", *(["--eval_data", "-"] if watched else [])]
    for number, method in enumerate(recipe.methods):
        shared = [*files, "--learning_rate", repr(method.rates[0])]
        for place, options in (
            (("training",), recipe.training),
            (("methods", number), {"method": method.method, **recipe.training, **method.options}),
        ):
            if recipe.frontier is not None and (lost := lost_checkpoints(options)) is not None:
                raise file.error(place, lost)
            try:
                _check_training([*shared, *as_flags(options)])
            except UserError as error:
                raise file.error(place, str(error)) from error
    if recipe.frontier is not None and not Path(recipe.frontier.text).is_file():
        raise file.error(("frontier",), f"text: there is no file {recipe.frontier.text}; check the path")
    for number, evaluation in enumerate(recipe.evaluations):
        for data in recipe.data:
            if evaluation.only and data.name not in evaluation.only:
                continue
            settings = settings_of(recipe, evaluation, data.test.source, data.prompts)
            try:
                _check_evaluation(evaluation.suite, as_flags(settings, switches=True))
            except UserError as error:
                raise file.error(("evaluations", number), f"{error} ({evaluation.suite}, {data.name})") from error


def _check_training(flags: list[str]) -> None:
    """Check the flags of `ropo train` without running it."""
    from ropo.cli.train_options import add_train_options, read_train_options
    from ropo.runs.inputs import choose_method
    from ropo.runs.options import trainer_config

    parser = Parser(prog="ropo train")
    add_train_options(parser)
    options = read_train_options(parser.parse_args(flags))
    choose_method(options)
    trainer_config(options, 1e-4, options.output)


def _check_evaluation(suite: str, flags: list[str]) -> None:
    """Check the flags of `ropo evaluate` without running it."""
    with libraries_of("evaluation", f"suite {suite}"):
        chosen = load_suite(suite)
        chosen.read_settings(suite_flags(suite, chosen, ["reference", *flags, "--output", "-"]))


def prepare(file: RecipeFile, output: Path) -> Sequence[PreparedData]:
    """Write the data sets into the output folder."""
    from ropo.comparison.data import prepare_data

    prepared = []
    for number, data in enumerate(file.recipe.data):
        try:
            prepared.append(prepare_data(file.recipe, number, output / "data" / data.name))
        except UserError as error:
            raise file.error(("data", number), str(error)) from error
    return prepared
