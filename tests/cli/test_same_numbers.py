"""Training, `evaluate preference`, `diagnose` and the monitor render a record alike, so they print the same margin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ropo.cli.main import main
from ropo.core.record import read_record
from ropo.evaluation.results import read_results
from tests.cli.conftest import PAIRS, train, write_pairs
from tests.tiny.sampled import tiny_model
from tests.tiny.tokenizer import CHAT_TEMPLATE, tiny_tokenizer

TOOLS = [{"type": "function", "function": {"name": "cat"}}]
TEMPLATE = (
    "{% if tools %}<user> {% for t in tools %}{{ t['function']['name'] }} {% endfor %}<eos> {% endif %}"
    "<user> {{ date | default('one') }} <eos> " + CHAT_TEMPLATE
)
THINKING = TEMPLATE.replace("<assistant> {% endif %}", "<assistant> yes no {% endif %}")
RENDERED = [
    {
        "prompt": f"<user> {pair['prompt']} <eos> <assistant> ",
        "chosen": f"{pair['chosen']} <eos>",
        "rejected": f"{pair['rejected']} <eos>",
    }
    for pair in PAIRS
]
KINDS: dict[str, tuple[str | None, list[dict[str, Any]]]] = {
    "text": (TEMPLATE, PAIRS),
    "tools": (TEMPLATE, [{**pair, "tools": TOOLS} for pair in PAIRS]),
    "options of the template": (TEMPLATE, [{**pair, "chat_template_kwargs": {"date": "three"}} for pair in PAIRS]),
    "thinking": (THINKING, PAIRS),
    "templated already": (CHAT_TEMPLATE, RENDERED),
    "no template": (None, [{**pair, "chosen": pair["chosen"] + " <eos>"} for pair in PAIRS]),
}


CUTS: dict[str, list[Any]] = {
    "whole": [],
    "keep_start": ["--max_length", 12, "--skip_long_prompts"],
    "keep_end": ["--max_length", 4, "--truncation_mode", "keep_end"],  # of some pairs no prompt is left
}


@pytest.mark.parametrize(
    ("kind", "cut"), [*((kind, cut) for kind in KINDS for cut in ("whole", "keep_start")), ("text", "keep_end")]
)
def test_every_command_prints_the_same_margin(tmp_path, kind: str, cut: str) -> None:
    template, records = KINDS[kind]
    model, data, output = tmp_path / "model", write_pairs(tmp_path / "pairs.jsonl", records), tmp_path / "out"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tiny_model().save_pretrained(model)
    tokenizer.save_pretrained(model)
    flags = ["--eval_data", data, "--learning_rate", 0.01, "--monitor_steps", 2, "--beta", 0.3, *CUTS[cut]]
    assert train(str(model), data, output, *flags) == 0
    trained = read_record(output).metrics["held_out"]

    assert main(["evaluate", "preference", str(output), "--data", str(data), "--output", str(tmp_path / "e")]) == 0
    evaluated = read_results(tmp_path / "e").models[0].metric("margin")
    both = [
        "evaluate",
        "preference",
        f"base={model}",
        str(output),
        "--data",
        str(data),
        "--output",
        str(tmp_path / "b"),
    ]
    assert main(both) == 0
    beside = read_results(tmp_path / "b").models[1].metric("margin")
    report = tmp_path / "report.json"
    assert main(["diagnose", str(output), "--pairs", str(data), "--output", str(report)]) == 0
    diagnosed = json.loads(report.read_text())["behaviour"]
    logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    (watched,) = [entry["hacking/margin"] for entry in logged if "hacking/margin" in entry]

    assert abs(trained["margin"]) > 1e-3
    assert evaluated.count == beside.count == diagnosed["pairs"] == trained["pairs"]
    assert diagnosed["beta"] == 0.3
    # float32, in packs here and padded there: a nat of a summed log-prob is good to a millionth.
    for margin in (evaluated.value, beside.value, diagnosed["margin"], watched):
        assert margin == pytest.approx(trained["margin"], abs=1e-6)
