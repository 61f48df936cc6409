"""Print controlled rates of the published judge, of one that sees only length, and of one that sometimes does not.

python experiments/length_control/judges.py ../shared/data/reference/alpaca_eval_2.json.gz
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np

from ropo.evaluation.alpaca_eval.win_rates import NO_VERDICT, fit_length_control, win_rate


def main(path: str) -> None:
    """Print, for each model, raw and controlled rates under the three judges."""
    random = np.random.default_rng(0)
    print("published judge | judge of length | the same with every tenth verdict drawn by chance: raw -> controlled")
    for model in json.loads(gzip.decompress(Path(path).read_bytes())):
        given = model["annotations"]
        extra = np.array([each["len_model"] - each["len_baseline"] for each in given], dtype=float)
        published = np.array([each["preference"] - 1 if each["preference"] else NO_VERDICT for each in given])
        length = np.where(extra > 0, 1.0, np.where(extra < 0, 0.0, 0.5))
        noisy = np.where(random.random(len(extra)) < 0.1, random.integers(0, 2, len(extra)), length).astype(float)
        fits = ((wins, fit_length_control(wins, extra)) for wins in (published, length, noisy))
        shown = (f"{win_rate(wins):4.1f} -> {fit.win_rate(None):4.1f} (phi {fit.phi:4.1f})" for wins, fit in fits)
        print(f"{model['model'][:32]:32}", " | ".join(shown))


if __name__ == "__main__":
    main(sys.argv[1])
