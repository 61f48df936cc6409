"""The perplexity of a plain text, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropo.core.errors import UserError
from ropo.core.kept import content_key, kept_rows
from ropo.evaluation.contestants import Contestant, fingerprint_source, loaded
from ropo.evaluation.readings import Reading
from ropo.evaluation.suites import Workplace
from ropo.lm.loading import load_tokenizer
from ropo.lm.log_probs import answer_log_probs
from ropo.lm.tokens import text_windows


@dataclass(frozen=True)
class TextScores:
    """Hold a model's losses on a text: `tokens` names how it was cut, so that only equal cuts are compared."""

    readings: dict[str, Reading]
    tokens: str


def read_text(file: Path) -> str:
    """Read a plain text.

    Raises:
        UserError: If it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"text {file}: is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error


def cut_text(contestant: Contestant, text: str, window: int, most: int) -> list[list[int]]:
    """Cut a text into windows of a model's tokens, leaving out a shorter last one, so that all weigh the same.

    Args:
        contestant: The model.
        text: Plain text.
        window: Tokens a window.
        most: Windows at most, from the beginning of the text.

    Raises:
        UserError: If the text has fewer than two tokens.
    """
    windows = text_windows(load_tokenizer(contestant.source), text, window, most)
    return [ids for ids in windows if len(ids) == len(windows[0])]


def score_windows(
    contestant: Contestant, windows: list[list[int]], workplace: Workplace, advance: Callable[[int], None]
) -> TextScores:
    """Return a model's loss on every window of a text.

    The loss of a window is the mean of -log p(token | earlier tokens of the window) over all tokens but its first, and
    the perplexity exp(mean loss).

    Args:
        contestant: The model.
        windows: What `cut_text` returned.
        workplace: Where scores are kept, and how many windows go through the model at once.
        advance: Called with the number of windows just done.

    Raises:
        UserError: If the model cannot be loaded.

    Cost: one forward pass over the text.
    """

    def compute(start: int) -> Iterator[list[Any]]:
        with loaded(contestant) as (model, _):
            for first in range(start, len(windows), workplace.batch_size):
                batch = windows[first : first + workplace.batch_size]
                scores = answer_log_probs(model, [ids[:1] for ids in batch], [ids[1:] for ids in batch])
                yield [-float(score.double().mean()) for score in scores]

    wanted = {"model": fingerprint_source(contestant.source), "windows": content_key(windows)}
    rows = kept_rows(workplace.cache / "text", wanted, len(windows), compute, advance)
    losses = np.array(rows, dtype=float)
    how = f"{len(windows)} windows of {len(windows[0])} tokens"
    readings = {
        "text/loss": Reading(losses, f"mean negative log-likelihood in nats per token, {how}"),
        "text/perplexity": Reading(losses, f"exp(loss) per token, {how}", exponential=True),
    }
    return TextScores(readings, wanted["windows"])
