"""Numbers and untrusted texts."""

from __future__ import annotations

import json

import pytest

from ropo.report.text import command_line, embedded_json, label, number, setting, visible

NUMBERS = [
    (None, "–"),
    (0.0, "0"),
    (0, "0"),
    (161160, "161,160"),
    (0.65625, "0.656"),
    (0.5, "0.500"),
    (46.44, "46.4"),
    (100.0, "100"),
    (12345.6, "12,346"),
    (-0.0123, "−0.0123"),
    (7.9e-8, "7.90e−8"),
    (1e30, "1.00e30"),
]


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_what_was_chosen_is_written_as_short_as_it_is():
    assert [setting(value) for value in (0.002, 1e-5, 10.0)] == ["0.002", "1e−05", "10"]


def test_invisible_characters_are_shown_and_lines_kept():
    assert visible("a\nb\tc\r\nd") == "a\nb\tc\nd"
    assert visible("\x00\x1b[31m\x7f\r") == "␀␛[31m␡␍"
    assert visible("safe\u202egnp.exe\u2066") == "safe[U+202E]gnp.exe[U+2066]"
    assert visible("\ud800 \uffff \x85") == "\ufffd \ufffd \ufffd"
    assert visible("שלום é 👩‍👩‍👧") == "שלום é 👩‍👩‍👧"


def test_labels_are_no_markup_for_plotly():
    assert label("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"


def test_json_cannot_end_its_element():
    value = {"</script><!--": ["\u2028]]>&<script>", 1.5, None]}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json([float("nan")])


def test_commands_are_quoted_for_a_shell():
    assert command_line(["train", "--output", "a b"]) == "ropo train --output 'a b'"
