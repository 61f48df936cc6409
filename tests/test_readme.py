"""What the README shows is what works."""

import json
import re
from pathlib import Path

import pytest
from peft import PeftConfig

from ropo import RopoConfig
from tests.tiny.adapted import tiny_llama
from tests.tiny.tokenizer import tiny_tokenizer

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_trains_and_saves_an_adapter(tmp_path, monkeypatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) == 11
    tiny_llama().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    pairs = [{"prompt": "the cat ", "chosen": "sat on the mat .", "rejected": "ran ."}] * 8
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    monkeypatch.chdir(tmp_path)
    assert example.count("HuggingFaceTB/SmolLM2-135M-Instruct") == 2
    exec(compile(example.replace("HuggingFaceTB/SmolLM2-135M-Instruct", "tiny"), "README.md", "exec"), {})
    assert isinstance(PeftConfig.from_pretrained(tmp_path / "out"), RopoConfig)


def test_every_command_shown_exists() -> None:
    from ropo.cli.main import available_commands

    shown = set(re.findall(r"^    ropo ([a-z]+)", README, flags=re.MULTILINE))
    assert len(shown) >= 6
    assert shown <= set(available_commands())


@pytest.mark.parametrize("folder", sorted(set(re.findall(r"^    (src/ropo/[a-z]+/)", README, flags=re.MULTILINE))))
def test_every_folder_shown_exists(folder: str) -> None:
    assert (Path(__file__).parents[1] / folder).is_dir()
