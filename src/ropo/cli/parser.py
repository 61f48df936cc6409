"""An argument parser that reports every mistake as one line, with the nearest name where there is one."""

from __future__ import annotations

__all__ = ()

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ropo.core.errors import UserError
from ropo.core.names import did_you_mean

# What the same thing is called in other commands, or in other programs.
_PAIRS = ("--pairs", "--data", "--prompts")
_SAME = {
    **dict.fromkeys(("--data", "--pairs", "--eval_data", "--dataset", "--dataset_name", "--input", "--file"), _PAIRS),
    **dict.fromkeys(("--output_dir", "--output_file", "--out", "--save_path", "-o"), ("--output",)),
    **dict.fromkeys(("--max_tokens", "--max_length", "--max_gen_toks"), ("--max_new_tokens",)),
    **dict.fromkeys(("--n", "--num_samples", "--num_return_sequences"), ("--samples",)),
    **dict.fromkeys(("--force", "--overwrite_output_dir"), ("--overwrite",)),
    **dict.fromkeys(("--epochs", "--num_epochs"), ("--num_train_epochs",)),
    **dict.fromkeys(("--lr",), ("--learning_rate",)),
    **dict.fromkeys(("--batch_size", "--train_batch_size"), ("--per_device_train_batch_size",)),
    **dict.fromkeys(("--peft_method", "--adapter", "--peft_type"), ("--method",)),
}
_FLAGS_OF_MODELS = (
    *("--model", "--models", "--model_name_or_path", "--model-name-or-path", "--adapter", "--adapters"),
    *("--peft_model", "--recipe", "--suite"),
)


class Parser(argparse.ArgumentParser):
    """Parse flags, raising `UserError` where argparse would print its usage and exit.

    Attributes:
        foreign: Options of other programs by name, with what to do instead.
        structures: Options that a file may give as a list or a mapping, though their flag takes one text.
    """

    foreign: Mapping[str, str] = {}
    structures: Mapping[str, type] = {}

    def __init__(self, **options: Any) -> None:
        """Refuse abbreviated flags: a new flag must not change what an old command line means."""
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with argparse's message."""
        raise UserError(f"{message}; see `{self.prog} --help`")

    def _spelled(self, flag: str) -> str:
        """Return a flag as it is declared, where it is written with dashes between its words."""
        name, given, value = flag.partition("=")
        ours = "--" + name[2:].replace("-", "_")
        known = (
            name.startswith("--") and name not in self._option_string_actions and ours in self._option_string_actions
        )
        return ours + given + value if known else flag

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the flags, naming the nearest flag for an unknown one."""
        args = sys.argv[1:] if args is None else args
        args = [self._spelled(each) for each in args]
        self._refuse_flags_of_positionals(args)
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = next((each for each in unknown if each.startswith("-")), unknown[0]).split("=")[0]
            name = flag.lstrip("-").replace("-", "_")
            if name in self.foreign:
                raise UserError(f"{flag}: is not an option of {self.prog}; {self.foreign[name]}")
            ours = next((each for each in _SAME.get(flag, ()) if each in self._option_string_actions), None)
            if ours is not None:
                raise UserError(f"unknown argument {flag!r}; it is called {ours!r} here")
            hint = did_you_mean(flag, self._option_string_actions) or f"; see `{self.prog} --help`"
            raise UserError(f"unknown argument {flag!r}{hint}")
        return parsed

    def _refuse_flags_of_positionals(self, args: Sequence[str]) -> None:
        """Say how to give what other commands and programs have a flag for, and this one takes as it stands."""
        places = " ".join(str(action.metavar or action.dest) for action in self._actions if not action.option_strings)
        given = next((each.split("=")[0] for each in args if each.split("=")[0] in _FLAGS_OF_MODELS), None)
        if places and given is not None and given not in self._option_string_actions:
            raise UserError(f"{given}: is given without a flag, as in `{self.prog} {places}`; see `{self.prog} --help`")
