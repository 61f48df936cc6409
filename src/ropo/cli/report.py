"""`ropo report`: one self-contained page from a comparison, or from runs that were made one by one."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ropo.cli.extras import libraries_of
from ropo.cli.flags import check_new_file
from ropo.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ropo.comparison.results import ComparisonResult

HELP = "write one page that shows a comparison, or finished runs side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of `ropo compare`; or folders of `ropo train` and, to have their numbers too, of `ropo evaluate` "
        "and files of `ropo diagnose`",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html", help="where the page goes")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE.svg", help="where the frontiers go, as a figure of their own"
    )
    parser.add_argument("--data", metavar="NAME", help="whose frontiers --figure shows (the first data set's)")
    parser.add_argument("--title", metavar="TEXT", help="title of a page of finished runs (Finished runs)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.html if it exists")


def run(arguments: argparse.Namespace) -> None:
    """Read what was named and write the page."""
    output, figure = arguments.output, arguments.figure
    check_new_file("output", output, arguments.overwrite, ".html")
    if figure is not None and figure.suffix != ".svg":
        raise UserError(f"figure {figure}: is written as SVG; name a .svg file")
    if figure is not None:
        check_new_file("figure", figure, arguments.overwrite, ".svg")
    write_page = page_writer()

    from ropo.comparison.finished import read_finished

    result = read_finished(arguments.runs, arguments.title)
    if figure is not None:
        from ropo.report.figures.svg import write_frontier

        write_frontier(result, figure, arguments.data)
    write_page(result, output)
    print(f"written to {output}{f' and {figure}' if figure is not None else ''}")


def page_writer() -> Callable[[ComparisonResult, Path], None]:
    """Return what writes a page.

    Raises:
        UserError: If a library that it needs is not installed.
    """
    with libraries_of("report", "the page"):
        from ropo.report import write_page
    return write_page
