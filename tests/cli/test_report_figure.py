"""`ropo report --figure`: the frontiers as a file of their own, and mistakes before anything is written."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ropo.cli.main import main
from tests.report.made import make_result


def test_the_figure_is_written_beside_the_page(tmp_path, capsys):
    make_result().write(tmp_path)
    page, figure = tmp_path / "page.html", tmp_path / "frontier.svg"
    given = ["report", str(tmp_path), "--output", str(page), "--figure", str(figure), "--data", "two"]
    assert main(given) == 0
    assert capsys.readouterr().out == f"written to {page} and {figure}\n"
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    assert main(given) == 2
    assert "the file exists" in capsys.readouterr().err
    assert main([*given, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--figure", "frontier.png"], "figure frontier.png: is written as SVG; name a .svg file"),
        (
            ["--figure", "frontier.svg", "--data", "three"],
            "figure: there is no frontier of 'three'; there are one, two",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    make_result().write(tmp_path)
    assert main(["report", ".", "--output", "page.html", *flags]) == 2
    assert capsys.readouterr().err == f"ropo report: error: {message}\n"
    assert not (tmp_path / "page.html").exists()
