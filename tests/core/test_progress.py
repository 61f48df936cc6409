"""How far something long is, in lines where there is no terminal."""

from __future__ import annotations

import re
from io import StringIO

from rich.console import Console

from ropo.core import progress


def test_lines_come_every_half_a_minute_and_never_at_the_end(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    advance = progress.lines_of_progress("sampling", 10, said.append)
    for seconds, steps in ((29, 1), (1, 1), (20, 3), (15, 1), (60, 4)):
        now[0] += seconds
        advance(steps)
    assert said == ["sampling: 2/10, about 0:02:00 left", "sampling: 6/10, about 0:00:43 left"]


def test_a_bar_says_what_its_clocks_show_within_80_columns():
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with progress.progress_bar(console) as bar:
        bar.add_task("sampling answers to prompts", total=640)
        bar.refresh()
    lines = screen.getvalue().replace("\r", "\n").splitlines()
    assert any(re.search(r"0/640 +0:00:00 elapsed, +-:--:-- left", line) for line in lines), lines


def test_without_a_terminal_they_go_to_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    with progress.show_progress("text", 2) as advance:
        advance(1)
        advance(1)
    assert capsys.readouterr().err == "text: 1/2, about 0:00:00 left\n"
