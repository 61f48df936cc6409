"""Derive the prior of the length-controlled rate from published coefficients, and show its errors on models left out.

    python experiments/length_control/prior.py ../shared/data/reference

Mean and covariance of phi and psi are those of the published coefficients of 164 models: all but the reference
itself, whose coefficients are 0 by definition, and `gpt4_gamed`, which is kept for the end. The spread is the standard
deviation of the published difficulties. The two strengths are chosen, among powers of 2, on the 12 models whose
verdicts are there, each judged with a prior from which its own coefficients are left out:

- with difficulties, the least mean error of the rate;
- without, the weakest that leaves a fifth of what is asked for (1.6 points on average, 5.0 at most). The least error
  would be that of an infinite strength, for the 12 models are much alike, and verdicts on others would not be heard.

`gpt4_gamed` is not looked at in either choice.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from ropo.evaluation.alpaca_eval.win_rates import NO_VERDICT, Prior, fit_length_control

REFERENCE, GAMED = "gpt4_1106_preview", "gpt4_gamed"
STRENGTHS = [2.0**power for power in range(-3, 5)]
MEAN_ASKED, MOST_ASKED, ROOM = 1.6, 5.0, 0.8


class Model(NamedTuple):
    """A model's verdicts, lengths and difficulties, and its published rate."""

    name: str
    wins: np.ndarray
    extra: np.ndarray
    difficulties: np.ndarray
    published: float

    def error(self, prior: Prior, known: bool) -> float:
        """Return how far the rate is from the published one, in points."""
        difficulties = self.difficulties if known else None
        return (
            fit_length_control(self.wins, self.extra, difficulties, prior=prior).win_rate(difficulties) - self.published
        )


class Data(NamedTuple):
    """What was published: coefficients by model (phi with our sign, psi), difficulties, models, the gamed one."""

    coefficients: dict[str, tuple[float, float]]
    difficulties: dict[str, float]
    models: list[Model]
    gamed: Model

    def prior(self, strength: float, strength_alone: float, left_out: str | None = None) -> Prior:
        """Return the prior of all models but one."""
        used = [pair for name, pair in self.coefficients.items() if name not in (REFERENCE, GAMED, left_out)]
        mean, covariance = np.mean(used, axis=0), np.cov(np.transpose(used))
        spread = float(np.std(list(self.difficulties.values()), ddof=1))
        return Prior(tuple(mean), tuple(map(tuple, covariance)), strength, spread, strength_alone)

    def errors(self, strength: float, known: bool) -> np.ndarray:
        """Return the errors of the 12 models, each with a prior that lacks it."""
        return np.array([each.error(self.prior(strength, strength, each.name), known) for each in self.models])

    def choose(self, known: bool) -> float:
        """Return the strength that the rules above choose."""
        found = {strength: np.abs(self.errors(strength, known)) for strength in STRENGTHS}
        if known:
            return min(found, key=lambda strength: found[strength].mean())
        return next(s for s, e in found.items() if e.mean() <= ROOM * MEAN_ASKED and e.max() <= ROOM * MOST_ASKED)


def read(folder: Path) -> Data:
    """Read the files of `../shared/data/reference`."""
    with (folder / "alpaca_eval_2_coefficients.csv").open() as file:
        coefficients = {row["model"]: (-float(row["phi"]), float(row["psi"])) for row in csv.DictReader(file)}
    difficulties = json.loads((folder / "alpaca_eval_2_difficulty.json").read_text())
    models, gamed = (
        [_model(each, difficulties) for each in json.loads(gzip.decompress((folder / name).read_bytes()))]
        for name in ("alpaca_eval_2.json.gz", "alpaca_eval_2_gamed.json.gz")
    )
    return Data(coefficients, difficulties, models, gamed[0])


def _model(record: dict, difficulties: dict[str, float]) -> Model:
    given = record["annotations"]
    return Model(
        record["model"],
        np.array([each["preference"] - 1 if each["preference"] else NO_VERDICT for each in given]),
        np.array([each["len_model"] - each["len_baseline"] for each in given], dtype=float),
        np.array([difficulties[each["instruction_sha"]] for each in given]),
        record["length_controlled_winrate"],
    )


def main(folder: str) -> None:
    """Print the constants, and the errors at every strength."""
    data = read(Path(folder))
    chosen = {known: data.choose(known) for known in (True, False)}
    prior = data.prior(chosen[True], chosen[False])
    print("mean", np.round(prior.mean, 3), "covariance", np.round(prior.covariance, 4).tolist(), end=" ")
    print("spread", round(prior.spread, 3), "strengths", chosen[True], chosen[False])
    published = np.array([each.published for each in data.models])
    print("difficulties  strength  mean |error|  max |error|  rank correlation  gpt4_gamed (published 12.19)")
    for known in (True, False):
        for strength in STRENGTHS:
            errors = data.errors(strength, known)
            order = spearmanr(published + errors, published).statistic
            gamed = data.gamed.published + data.gamed.error(data.prior(strength, strength), known)
            numbers = f"{np.abs(errors).mean():12.2f} {np.abs(errors).max():12.2f} {order:17.3f} {gamed:11.2f}"
            print(f"{'known' if known else 'unknown':12} {strength:9} {numbers}", "*" * (strength == chosen[known]))
    print("errors with and without difficulties, each model left out of the prior")
    for each in [*data.models, data.gamed]:
        left_out = data.prior(chosen[True], chosen[False], each.name)
        print(f"{each.name:32} {each.error(left_out, True):6.2f} {each.error(left_out, False):6.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
