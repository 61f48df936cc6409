"""Every warning ends with what to try and the number that chose it, in flags that `ropo train` has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ropo.cli.parser import Parser
from ropo.cli.train_options import add_train_options, read_train_options
from ropo.diagnostics import SIGNALS
from ropo.diagnostics.signals import Reading, advise
from ropo.runs.options import trainer_config

HEALTHY = {
    "chosen_change_per_token": 0.1,
    "rejected_change_per_token": -0.2,
    "length_ratio": 1.0,
    "repetition_rise": 0.0,
    "collapsed_pairs": 0.0,
    "text_loss_rise": 0.0,
}
CASES = [
    (
        "displacement",
        {"chosen_change_per_token": -0.35, "rejected_change_per_token": -0.8},
        "; try --rpo_alpha 1 with half the --learning_rate (chosen -0.35, rejected -0.80 nats per token: the chosen "
        "answers pay for the margin)",
    ),
    (
        "displacement",
        {"chosen_change_per_token": -0.8, "rejected_change_per_token": -0.7, "kl_per_token": 0.3},
        "; try a lower --learning_rate or --stop_at_kl 0.1 (chosen -0.80, rejected -0.70 nats per token: no margin is "
        "gained by it)",
    ),
    (
        "rejected_collapse",
        {"chosen_change_per_token": -0.05, "rejected_change_per_token": -1.4},
        "; try --rpo_alpha 1 with half the --learning_rate (chosen -0.05 nats per token: both are pushed down)",
    ),
    (
        "rejected_collapse",
        {"rejected_change_per_token": -1.4},
        "; try --loss_type cdpo --label_smoothing 0.1 or --loss_type ipo (chosen +0.10 nats per token: the margin has "
        "no end)",
    ),
    (
        "length_growth",
        {"length_ratio": 2.0, "length_reward_correlation": 0.6},
        "; try --rpo_alpha 1 on pairs of equal lengths or --rpo_alpha 1 --rdpo_alpha 0.01 (2.00 times as long, reward "
        "and length correlate by +0.60)",
    ),
    (
        "length_growth",
        {"length_ratio": 2.0, "length_reward_correlation": -0.1, "kl_per_token": 0.5},
        "; try --rpo_alpha 1 with half the --learning_rate or --stop_at_kl 0.2 (reward and length correlate by -0.10: "
        "it is not what the pairs reward)",
    ),
    (
        "length_growth",
        {"length_ratio": 2.0},
        "; try --rpo_alpha 1 on pairs of equal lengths or --rpo_alpha 1 --rdpo_alpha 0.01 (2.00 times as long)",
    ),
    (
        "repetition",
        {"repetition_rise": 0.4, "kl_per_token": 0.6},
        "; try --stop_at_kl 0.3 or a lower --learning_rate (KL 0.6 nats per token: it went far)",
    ),
    (
        "repetition",
        {"repetition_rise": 0.4, "kl_per_token": 0.6, "length_reward_correlation": 0.5},
        "; try --loss_type sigmoid_norm --beta 5 (reward and length correlate by +0.50: a second copy makes an answer "
        "longer)",
    ),
    (
        "repetition",
        {"repetition_rise": 0.4, "kl_per_token": 0.05},
        "; try --rpo_alpha 1 or --ema_decay 0.95 (KL 0.05 nats per token: it did not go far)",
    ),
    ("repetition", {"repetition_rise": 0.4}, "; try --rpo_alpha 1 or --ema_decay 0.95 (no KL was measured)"),
    (
        "neuron_collapse",
        {"collapsed_pairs": 3.0},
        "; try --method ropo or a lower --learning_rate (3 pairs, and a rotation keeps every angle)",
    ),
    (
        "forgetting",
        {"text_loss_rise": 0.31, "kl_per_token": 0.42},
        "; try --anchor_text FILE or --stop_at_kl 0.2 (+0.31 nats per token on plain text, KL 0.42 nats per token)",
    ),
    (
        "forgetting",
        {"text_loss_rise": 0.31},
        "; try --anchor_text FILE (+0.31 nats per token on plain text)",
    ),
    (
        "forgetting",
        {"text_loss_rise": 0.31, "kl_per_token": 0.04},
        "; try --anchor_text FILE (+0.31 nats per token on plain text, KL 0.04 nats per token)",
    ),
]


@pytest.mark.parametrize(("name", "measured", "said"), CASES)
def test_the_numbers_choose(name: str, measured: dict[str, float], said: str) -> None:
    readings = {each: Reading(value) for each, value in {**HEALTHY, **measured}.items()}
    assert advise(name, readings) == said


def test_every_warning_has_its_advice_and_its_section() -> None:
    assert {name for name, _, _ in CASES} == {signal.name for signal in SIGNALS}
    page = (Path(__file__).parents[2] / "docs" / "remedies.md").read_text()
    sections = set(re.findall(r"^## `(\w+)`", page, flags=re.MULTILINE))
    assert sections == {signal.name for signal in SIGNALS}
    assert advise("somebody_else_s", {}) == ""


def test_the_flags_are_those_of_ropo_train(tmp_path: Path) -> None:
    text = tmp_path / "FILE"
    text.write_text("some text")
    shared = ["--model", "m", "--data", "d", "--output", "o", "--eval_data", "e"]
    tried = 0
    for _, _, said in CASES:
        flags = said.removeprefix("; try ").partition(" (")[0].replace("FILE", str(text))
        flags = flags.replace(" on pairs of equal lengths", "")
        flags = flags.replace("with half the --learning_rate", "--learning_rate 0.1")
        for each in flags.split(" or "):
            if each.startswith("a "):
                each = each.split()[-1] + " 0.1"
            parser = Parser(prog="ropo train")
            add_train_options(parser)
            options = read_train_options(parser.parse_args([*shared, *each.split()]))
            trainer_config(options, 1e-4, tmp_path)
            tried += 1
    assert tried == sum(1 + said.count(" or ") for _, _, said in CASES) > len(CASES)
