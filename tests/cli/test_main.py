"""Dispatch and exit status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ropo.cli import env
from ropo.cli.main import COMMANDS, FIRST_LINE, available_commands, entry, main
from ropo.core.errors import UserError


def test_help_lists_the_commands_that_exist(capsys):
    assert main([]) == main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    available = available_commands()
    assert {"train", "merge", "env"} <= set(available) <= set(COMMANDS)
    for name in COMMANDS:
        assert any(line.startswith(f"  {name} ") for line in lines) == (name in available)


def test_every_command_has_help(capsys):
    for name in available_commands():
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: ropo {name}")


def test_the_help_of_train_names_every_trainer_option_only_on_request(capsys):
    texts = []
    for flag in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            main(["train", flag])
        texts.append(capsys.readouterr().out)
    usual, everything = texts
    assert "--beta" in usual
    assert "--adam_epsilon" not in usual
    assert "--adam_epsilon" in everything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["nothing"], "there is no command 'nothing'; choose from train"),
        (["train", "--modle", "x"], "unknown argument '--modle'; did you mean '--model'?"),
        (["train", "--learning_rat=3"], "unknown argument '--learning_rat'; did you mean '--learning_rate'?"),
        (["train", "--method", "dora"], "argument --method: invalid choice: 'dora'"),
        (["train", "--beta", "high"], "argument --beta: invalid float value: 'high'"),
        (["merge"], "the following arguments are required: adapter, --output"),
        (
            ["generate", "--model", "x", "--prompts", "p"],
            "--model: is given without a flag, as in `ropo generate MODEL_OR",
        ),
        (["diagnose", "--model=x"], "--model: is given without a flag, as in `ropo diagnose MODEL_OR_ADAPTER`"),
        (
            ["merge", "--adapter", "x", "--output", "y"],
            "--adapter: is given without a flag, as in `ropo merge adapter`",
        ),
        (["compare", "--recipe", "x"], "--recipe: is given without a flag, as in `ropo compare RECIPE.yaml`"),
        (
            ["evaluate", "diversity", "--model", "x"],
            "--model: is given without a flag, as in `ropo evaluate SUITE MODEL`",
        ),
        (["generate", "m", "--max-new-tokens", "x"], "argument --max_new_tokens: invalid int value: 'x'"),
        (["diagnose", "m", "--output", "o", "--data", "x"], "unknown argument '--data'; it is called '--pairs' here"),
        (["train", "--model", "m", "--lr", "1"], "unknown argument '--lr'; it is called '--learning_rate' here"),
        (
            ["generate", "m", "--prompts", "p", "--output", "o", "--max_tokens", "1"],
            "it is called '--max_new_tokens' here",
        ),
        (["env", "stray"], "unknown argument 'stray'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out.removeprefix(f"{FIRST_LINE}\n") == ""  # train says that it loads before it reads flags
    assert captured.err.count("\n") == 1
    assert message in captured.err


# The command's name, and what it is stopped at: its flags are wrong or its files are not there.
SLOW_TO_START = {
    "train": (),
    "merge": ("none", "--output", "out"),
    "diagnose": ("none", "--output", "out.json"),
    "generate": ("none", "--prompts", "none", "--output", "out"),
    "evaluate": ("preference", "none", "--output", "out"),
    "pairs": ("--model", "none", "--prompts", "none", "--output", "out"),
    "compare": ("none", "--output", "out"),
    "path": ("none", "--output", "out", "--pairs", "none"),
}


@pytest.mark.parametrize("name", SLOW_TO_START)
def test_a_command_that_loads_pytorch_says_so_before(name, tmp_path):
    """A person sees within a second that something happens: loading the libraries takes many."""
    code = f"""
import sys
from ropo.cli import main
write = sys.stdout.write
def written(text):
    write(text)
    print(*{{"torch", "transformers", "numpy"}} & set(sys.modules), file=sys.stderr)
    raise SystemExit  # what comes next takes seconds
sys.stdout.write = written
main.main({[name, *SLOW_TO_START[name]]})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == FIRST_LINE, done.stderr
    assert done.stderr == "\n"


def test_a_user_error_is_flattened_to_one_line(monkeypatch, capsys):
    def fail(arguments):
        raise UserError("first\n  second")

    monkeypatch.setattr(env, "run", fail)
    assert main(["env"]) == 2
    assert capsys.readouterr().err == "ropo env: error: first second\n"


def test_another_error_keeps_its_traceback(monkeypatch):
    def fail(arguments):
        raise ValueError("a bug")

    monkeypatch.setattr(env, "run", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["env"])


def test_a_library_that_is_missing_is_named_in_one_line(monkeypatch, capsys):
    def missing(name):
        def fail(arguments):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return fail

    monkeypatch.setattr(env, "run", missing("scipy"))
    assert main(["env"]) == 2
    assert capsys.readouterr().err == (
        "ropo env: error: needs the library scipy, which is not installed; pip install scipy, or install ropo anew "
        "with what it needs\n"
    )
    for name in ("ropo_autoload", "ropo.cli.nothing", "transformers.nothing", None):
        monkeypatch.setattr(env, "run", missing(name))
        with pytest.raises(ModuleNotFoundError):
            main(["env"])


def test_an_interrupt_is_told_without_traceback(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "run", interrupt)
    assert main(["env"]) == 1
    assert capsys.readouterr().err == "ropo: interrupted\n"


def test_a_reader_that_leaves_early_is_no_traceback():
    program = subprocess.Popen([sys.executable, "-m", "ropo", "env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.close()
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 1
    assert errors == b""


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(monkeypatch, given, used):
    monkeypatch.setattr(sys, "argv", ["ropo", "--version"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "" if given is None else given)
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit, match="0"):
        entry()
    assert os.environ["OMP_WAIT_POLICY"] == used
