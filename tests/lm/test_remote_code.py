"""Code that ships with a model does not run unless asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropo.cli.main import main
from ropo.core.errors import UserError
from ropo.lm.loading import load_model, load_tokenizer
from tests.tiny.sampled import save_tiny

CODE = """
from pathlib import Path
from transformers import LlamaConfig
Path({marker!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
"""


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, Path]:
    """Save a model of a type that transformers does not know, whose code leaves a mark when it runs."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    save_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return str(folder), marker


def test_it_is_off_by_default(model, tmp_path, capsys) -> None:
    source, marker = model
    with pytest.raises(UserError, match=r"brings code of its own.*--trust_remote_code"):
        load_model(source)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "the cat", "chosen": "yes", "rejected": "no"}\n')
    flags = ["--data", str(tmp_path / "pairs.jsonl"), "--output", str(tmp_path / "out"), "--use_cpu"]
    assert main(["train", "--model", source, *flags]) == 2
    assert "brings code of its own" in capsys.readouterr().err
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_it_runs_when_asked_for(model) -> None:
    """Or the test above could not have failed."""
    source, marker = model
    with pytest.raises(Exception, match=r"Own"):  # the model's class is not there
        load_model(source, trust_remote_code=True)
    assert marker.exists()
    load_tokenizer(source, trust_remote_code=True)
