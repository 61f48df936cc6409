"""Words of every script, and that nothing changed where spaces part them."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from ropo.core.words import runs_of_letters, spaced, words_and_marks

DATA = Path(__file__).parents[2] / "experiments" / "verifiable_pairs" / "full"
SCRIPTS = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, it's 3.5!", ["The", "cat", "it", "s", "3", "5"]),
        ("第一句。第二句。", list("第一句第二句")),
        ("コーヒーを3杯", [*"コーヒーを", "3", "杯"]),
        ("iPhoneが好き", ["iPhone", *"が好き"]),
        ("मुझे हिन्दी पसंद है।", ["मुझे", "हिन्दी", "पसंद", "है"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("ශ්\u200dරී ලංකා", ["ශ්\u200dරී", "ලංකා"]),
        ("cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),
        ("กำลังดี", ["ก", "ำ", "ลั", "ง", "ดี"]),
        ("ສະບາຍດີ", ["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"]),
        ("ភាសា", ["ភា", "សា"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert runs_of_letters(text) == words


def test_other_marks_stand_alone():
    assert words_and_marks("好。ok, क्या?") == ["好", "。", "ok", ",", "क्या", "?"]


def test_spaces_are_put_only_where_a_script_has_none():
    assert spaced("iPhoneが好き。").split() == ["iPhone", *"が好き。"]
    assert spaced("हिन्दी it's fine") == "हिन्दी it's fine"


def old_words(text: str) -> list[str]:
    r"""Return words and marks as they were: marks of letters are not in \w."""
    return re.findall(r"\w+|[^\w\s]", text)


def test_nothing_changed_in_the_shipped_answers():
    lines = [line for name in ("train", "test") for line in (DATA / f"{name}.pairs.jsonl").read_text().splitlines()]
    texts = {json.loads(line)[side][0]["content"] for line in lines for side in ("chosen", "rejected")}
    assert len(texts) > 2000
    for text in texts:
        assert words_and_marks(text) == old_words(text)
        assert runs_of_letters(text) == re.findall(r"\w+", text)
        assert spaced(text) == text


def test_nothing_changed_for_any_character_that_is_no_mark_and_of_no_such_script():
    """Neighbours too: each stands between two letters."""
    letters = [letter for letter in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(letter)[0] not in "CM"]
    kept = [letter for letter in letters if not unicodedata.name(letter, "CJK UNIFIED").startswith(SCRIPTS)]
    kept = [letter for letter in kept if runs_of_letters(f"a{letter}a") != ["a", letter, "a"]]
    assert len(kept) > 30_000
    text = " ".join(f"a{letter}b" for letter in kept)
    assert words_and_marks(text) == old_words(text)
