"""`ropo path`: measure a training run along its way, checkpoint by checkpoint."""

from __future__ import annotations

__all__ = ()

import argparse
from functools import partial
from pathlib import Path

from ropo.core.errors import UserError

HELP = "measure a run's checkpoints: gain, KL, forgetting, log-probs, answers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    from ropo.core.settings import add_flags
    from ropo.evaluation.path import PathSettings

    parser.add_argument("run", type=Path, metavar="RUN", help="folder of `ropo train` that kept checkpoints")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for results.json")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier results.json there")
    parser.add_argument("--reference", metavar="M", help="model that it started from (as recorded by the run)")
    add_flags(parser, PathSettings)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of the reference's numbers (OUTPUT/cache)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampled answers (0)")
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="answers sampled at once (64)")


def run(arguments: argparse.Namespace) -> None:
    """Measure what is not measured yet, and write `results.json`."""
    from ropo.cli.evaluate import CACHE, check_common_flags
    from ropo.core.files import check_file
    from ropo.core.settings import settings_from
    from ropo.evaluation.path import PathSettings

    check_common_flags(arguments)
    settings = settings_from(PathSettings, arguments)
    for name in ("prompts", "text"):
        if (file := getattr(settings, name)) is not None:
            check_file(name, file)
    record, checkpoints = _read_run(arguments.run)

    import ropo  # noqa: F401  registers the adapter
    from ropo.cli.quiet import quiet_libraries
    from ropo.evaluation.path.held_out import read_path_data
    from ropo.evaluation.path.measure import measure_path
    from ropo.evaluation.suites import Workplace

    quiet_libraries()
    reference = arguments.reference or record.config["model"]
    data = read_path_data(str(arguments.run), str(checkpoints[-1][1]), settings, arguments.seed)
    cache = arguments.cache or arguments.output / CACHE
    workplace = Workplace(cache, arguments.seed, arguments.batch_size, output=arguments.output)
    say = partial(print, flush=True)
    result = measure_path(arguments.run, checkpoints, reference, data, settings, workplace, say)
    result.write(arguments.output)
    print(f"written to {arguments.output / 'results.json'}")


def _read_run(run: Path) -> tuple:
    """Return a run's record, and its checkpoints in the order of their steps.

    Raises:
        UserError: If it is no finished run, or kept no checkpoint.
    """
    from ropo.core.record import read_record
    from ropo.training.checkpoints.folder import PREFIX, checkpoints_of

    if not run.is_dir():
        raise UserError(f"run {run}: no such folder; name the output folder of `ropo train`")
    record = read_record(run)
    found = [(int(each.name.removeprefix(PREFIX)), each) for each in reversed(checkpoints_of(run))]
    if not found:
        raise UserError(
            f"run {run}: kept no checkpoint to measure; train with --save_strategy steps --save_steps N, and "
            "--save_only_model true to keep weights only"
        )
    return record, found
