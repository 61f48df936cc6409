"""Find the command that was asked for, run it, and turn what went wrong into an exit status."""

from __future__ import annotations

__all__ = ["entry", "main"]

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from ropo.cli.parser import Parser
from ropo.core.errors import ProcessLostError, RunStoppedError, UserError
from ropo.core.files import is_full_disk
from ropo.core.names import did_you_mean
from ropo.training.distributed.processes import let_the_first_speak, rank

COMMANDS = (
    "train",
    "merge",
    "diagnose",
    "generate",
    "evaluate",
    "pairs",
    "compare",
    "path",
    "report",
    "env",
    "cache",
    "completion",
)
FIRST_LINE = "start     loading PyTorch and transformers"
# They load these before anything else, `train` even for its options: seconds in which they would say nothing.
_SLOW_TO_START = {"train", "merge", "diagnose", "generate", "evaluate", "pairs", "compare", "path"}
_HELP = {"-h", "--help", "--help_all"}


def entry() -> None:
    """Run the program on the arguments of this process and exit."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # OpenMP's threads spin while they wait for each other. On cores that do something else too that made small products
    # fifty times slower; asleep they cost nothing (docs/performance.md). It is read once, when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: The command's name and its flags, without the program's name.

    Returns:
        The exit status: 0 done, 2 the user's input is at fault (told in one line on standard error), 1 stopped
        early. Any other exception passes through, and Python then ends with 1 and a traceback.
    """
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except UserError as error:
        let_the_first_speak()
        command = f" {arguments[0]}" if arguments and arguments[0] in COMMANDS else ""
        print(f"ropo{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RunStoppedError as error:
        if not isinstance(error, ProcessLostError):
            let_the_first_speak()
        print(f"ropo {arguments[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ropo: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone, as in `ropo env | head -1`; Python would complain once more on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name or error.name.startswith("ropo"):  # a part is missing: a bug
            raise
        let_the_first_speak()
        advice = f"pip install {error.name}, or install ropo anew with what it needs"
        print(
            f"ropo {arguments[0]}: error: needs the library {error.name}, which is not installed; {advice}",
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        if not is_full_disk(error):
            raise
        let_the_first_speak()
        reason = " ".join(str(error).split())
        print(f"ropo {arguments[0]}: the disk is full ({reason:.200}); free some space and run again", file=sys.stderr)
        return 1
    return 0


def _dispatch(arguments: Sequence[str]) -> None:
    """Parse the arguments and run the command that they name."""
    commands = available_commands()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(commands))
        return
    if arguments[0] == "--version":
        print(f"ropo {version('ropo')}")
        return
    name, *flags = arguments
    if name not in commands:
        hint = did_you_mean(name, commands) or f"; choose from {', '.join(commands)}"
        raise UserError(f"there is no command {name!r}{hint}")
    command = import_module(f"ropo.cli.{name}")
    if name in _SLOW_TO_START and not rank() and not _HELP & set(flags):
        print(FIRST_LINE, flush=True)
    parser = Parser(prog=f"ropo {name}", description=command.HELP)
    command.add_arguments(parser)
    command.run(parser.parse_args(flags))


def available_commands() -> list[str]:
    """Return the names of the commands that this installation has."""
    return [name for name in COMMANDS if find_spec(f"ropo.cli.{name}")]


def _overview(commands: Sequence[str]) -> str:
    """Return the text that lists the commands."""
    lines = [f"  {name:<10} {import_module(f'ropo.cli.{name}').HELP}" for name in commands]
    return "\n".join(
        [
            "usage: ropo COMMAND [flags]",
            "",
            "Preference-tune language models by rotating their weights.",
            "",
            *lines,
            "",
            "`ropo COMMAND --help` tells the flags of a command; `ropo --version` the version.",
        ]
    )
