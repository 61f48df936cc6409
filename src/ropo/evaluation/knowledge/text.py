"""The perplexity of a plain text, window by window."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropo.core.kept import content_key, kept_rows
from ropo.evaluation.contestants import Contestant, finite, loaded
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.log_probs import text_losses
from ropo.lm.tokens import TextWindow, text_windows


@dataclass(frozen=True)
class TextScores:
    """A model's losses on a text: `tokens` names how it was cut, so that only equal cuts are compared."""

    by_metric: dict[str, UnitValues]
    tokens: str


def cut_text(contestant: Contestant, text: str, window: int, most: int) -> list[TextWindow]:
    """Cut a text into windows of a model's tokens, leaving out a shorter last one, so that all weigh the same.

    Raises:
        UserError: If the text has fewer than two tokens.
    """
    windows = text_windows(load_tokenizer(contestant.source), text, window, most)
    return [each for each in windows if len(each.ids) == len(windows[0].ids)]


def score_windows(
    contestant: Contestant, windows: list[TextWindow], workplace: Workplace, advance: Callable[[int], None]
) -> TextScores:
    """Return a model's loss on every window of a text.

    The loss of a window is the mean of -log p(token | earlier tokens of the window) over all tokens after its context,
    and the perplexity exp(mean loss).

    Raises:
        UserError: If the model cannot be loaded, or a loss is NaN or infinity.

    Cost: one forward pass over the text.
    """

    def compute(start: int) -> Iterator[list[Any]]:
        with loaded(contestant) as (model, _):
            for first in range(start, len(windows), workplace.batch_size):
                batch = windows[first : first + workplace.batch_size]
                yield finite(text_losses(model, batch))

    wanted = {"model": fingerprint_source(contestant.source), "windows": content_key([each.ids for each in windows])}
    rows = kept_rows(workplace.cache / "text", wanted, len(windows), compute, advance)
    losses = np.array(rows, dtype=float)
    how = f"{len(windows)} windows of {len(windows[0].ids)} tokens"
    by_metric = {
        "text/loss": UnitValues(losses, f"mean negative log-likelihood in nats per token, {how}"),
        "text/perplexity": UnitValues(losses, f"exp(loss) per token, {how}", exponential=True),
    }
    return TextScores(by_metric, wanted["windows"])
