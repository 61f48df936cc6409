"""`experiments/matched_margin/run.py`: it runs on a tiny model, in float32, and prints the results that are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from experiments.matched_margin import run
from tests.tiny.sampled import save_tiny
from tests.training.trainers import ours

KEPT = Path(run.__file__).parent / "results"


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Make the pairs and the text that the experiment reads."""
    folder = tmp_path / "data"
    (folder / "preferences").mkdir(parents=True)
    (folder / "knowledge").mkdir()
    for part in ("train", "test"):
        pairs = ({"prompt": f"{'the ' * n}cat", "chosen": "sat on the mat .", "rejected": "ran"} for n in range(1, 9))
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
        (folder / "preferences" / f"hh_harmless.{part}.jsonl").write_text(lines)
    (folder / "knowledge" / "wikitext2.txt").write_text("the cat sat on a mat . " * 60)
    monkeypatch.setattr(run, "DATA", folder)
    return folder


def command(monkeypatch, *flags: object) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", *map(str, flags)])
    run.main()


def test_it_trains_measures_and_goes_on_to_the_next_method(tmp_path, data, monkeypatch, capsys):
    model, out = save_tiny(tmp_path / "model"), tmp_path / "out"
    flags = ("--output", out, "--model", model, "--bf16", "--margin", 9, "--limit", 2, "--held_out", 4)
    command(monkeypatch, *flags, "--methods", "ropo")
    command(monkeypatch, *flags, "--methods", "ropo", "full")
    ropo, full = (json.loads((out / f"{name}.json").read_text()) for name in ("ropo", "full"))
    for result in (ropo, full):
        behaviour = result["behaviour"]
        assert (result["steps"], result["reached"], behaviour["pairs"]) == (2, False, 4)
        margin = 0.1 * (behaviour["chosen_change"] - behaviour["rejected_change"])
        assert behaviour["margin"] == pytest.approx(margin, abs=1e-9)
        assert behaviour["margin"] != 0
        assert result["text_loss"]["after"] != result["text_loss"]["before"]
    assert ropo["trained_parameters"] < full["trained_parameters"]
    assert ropo["text_loss"]["before"] == full["text_loss"]["before"]
    said = capsys.readouterr().out
    assert said.count("step 2: margin") == 2  # the first method was kept
    assert f"margin {ropo['behaviour']['margin']:+.4f} of 9.0" in said


def test_the_policy_is_measured_in_float32(tmp_path):
    trainer = ours(tmp_path, bf16=True, max_steps=1)
    trainer.train()
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        with run.in_float32(trainer) as model:
            found = model(input_ids=ids).logits
        rounded = model(input_ids=ids).logits
        with run.evaluating(model):
            exact = type(model).forward(model, input_ids=ids).logits
    assert torch.equal(found, exact)
    assert not torch.allclose(rounded, exact, atol=1e-3)


def test_the_kept_results_are_printed_as_the_docs_have_them(monkeypatch, capsys):
    command(monkeypatch, "--output", KEPT)
    rows = [re.split(r" *│ *", line)[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    shown = {row[0]: (row[1], row[2], row[3], row[7]) for row in rows}
    assert shown == {
        "ropo": ("161160", "30", "0.203", "+0.0682"),
        "lora": ("460800", "35", "0.250", "+0.0408"),
        "full": ("134515008", "35", "0.207", "+0.0225"),
    }
