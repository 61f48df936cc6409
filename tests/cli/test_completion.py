"""Shells complete commands, flags and choices."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ropo.cli.main import COMMANDS, main


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ropo ", set(COMMANDS)),
        ("ropo ev", {"evaluate"}),
        ("ropo train --dpop", {"--dpop_lambda", "--dpop-lambda"}),
        ("ropo train --method l", {"lora"}),
        ("ropo evaluate pref", {"preference"}),
    ],
)
def test_bash_completes_what_was_typed(script, typed, offered):
    words = typed.split(" ")
    ask = f"COMP_WORDS=({' '.join(words)} {'' if words[-1] else repr('')}); COMP_CWORD={len(words) - 1}; _shtab_ropo"
    ask += '; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert offered <= set(done.stdout.split())
    assert typed == "ropo " or offered == set(done.stdout.split())


@pytest.fixture(scope="module")
def script() -> str:
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda text, **options: printed.append(text))
        assert main(["completion", "bash"]) == 0
    return printed[0]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_theirs(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in ("train", "evaluate", "lora"))


def test_an_unknown_shell_is_told(capsys):
    assert main(["completion", "fish"]) == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
