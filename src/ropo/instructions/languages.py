"""Tell a handful of languages apart by their most frequent words."""

from __future__ import annotations

__all__ = ()

from ropo.instructions.counting import words

_FUNCTION_WORDS = {
    "English": "the of and to in is that it for as was with are be this by on you which from have or an at not can",
    "French": "le la les des et en est que une un du dans pour qui sur pas au avec ce il sont par plus ne se aux cette",
    "German": "der die das und ist in den von zu mit auf ein eine nicht des dem im für sich auch es sie sind wie als",
    "Italian": "il di che e la un una è per non in del sono con le della gli si dei al alla lo più come nel anche",
    "Spanish": "el de que y la en un una es los las se por con para del al lo como más su está son o también este",
}
_VOCABULARIES = {language: frozenset(text.split()) for language, text in _FUNCTION_WORDS.items()}
# Fewer than this share of function words is no running text in any of the languages.
_LEAST_SHARE = 0.15


def detect_language(text: str) -> str | None:
    """Return the language with the most function words in the text, or None without a clear winner.

    Args:
        text: Running text; a few sentences are enough.

    Returns:
        A key of `_FUNCTION_WORDS`, or None for a tie or too few function words.
    """
    tokens = [word.lower() for word in words(text)]
    hits = {language: sum(token in known for token in tokens) for language, known in _VOCABULARIES.items()}
    (best, most), (_, second) = sorted(hits.items(), key=lambda item: -item[1])[:2]
    return best if most > second and most >= _LEAST_SHARE * len(tokens) else None
