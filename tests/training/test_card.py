"""The card of a trained folder is read by huggingface_hub, and says what the run was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig

from ropo import PreferenceConfig, PreferenceTrainer
from ropo.lm.loading import load_model, load_tokenizer
from ropo.training.card import CardFacts, write_card
from tests.cli.conftest import PAIRS, train, write_pairs
from tests.tiny.sampled import tiny_model


def test_the_command_lines_card(model, tmp_path, monkeypatch):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    monkeypatch.setattr(sys, "argv", ["ropo", "train", "--model", model])
    assert train(model, pairs, tmp_path / "out", "--eval_data", pairs, "--method", "ropo") == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert {"ropo", "dpo", "trl"} <= set(card.data.tags)
    assert card.data.base_model is card.data.datasets is None  # both are paths here, which the hub does not know
    assert card.data.model_name == "out"
    held_out = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]["held_out"]
    found = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert found == {name: held_out[name] for name in ("accuracy", "margin", "loss", "chosen_after", "rejected_after")}
    assert card.data.metrics == list(found)
    assert f"    ropo train --model {model}" in card.text
    assert "import ropo" in card.text
    assert f"| held-out margin | {held_out['margin']:.4g} |" in card.text


def test_pythons_card(model, tmp_path):
    trainer = PreferenceTrainer(
        load_model(model),
        args=PreferenceConfig(str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to=[], loss_type=["ipo"]),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=load_tokenizer(model),
        peft_config=LoraConfig(target_modules=["q_proj"]),
    )
    trainer.save_model(str(tmp_path / "saved"))
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert "lora" in card.data.tags
    assert "method lora, loss ipo" in card.text
    assert card.data.eval_results is None
    trainer.create_model_card(model_name="mine", dataset_name="org/pairs", tags="extra")  # as `push_to_hub` calls it
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.text.strip().startswith("# mine")
    assert "extra" in card.data.tags
    assert card.data.datasets == ["org/pairs"]


@pytest.mark.parametrize(
    ("base", "data", "known"),
    [
        ("org/model", "org/pairs", ("org/model", ["org/pairs"])),
        ("/models/mine", "pairs.jsonl", (None, None)),
        ("models/a/b", "../pairs", (None, None)),
        ("base.gguf", "pairs.csv.gz", (None, None)),
        ("org/mo: del", "org/pa\nirs", (None, None)),
    ],
)
def test_only_hub_ids_stand_in_the_front_matter(base, data, known, tmp_path):
    whole = tiny_model()
    whole.config._name_or_path = base
    write_card(tmp_path, whole, "sigmoid", CardFacts(data=data))
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.datasets) == known
    assert card.data.library_name == "transformers"
    assert f"`{base}`" in card.text


class Hub(BaseHTTPRequestHandler):
    """Stand in for the hub: a repository can be made, and a commit of small files takes them."""

    seen: list[tuple[str, str]]
    card: bytes

    @property
    def repository(self) -> str:
        return f"http://{self.headers['Host']}/me/out"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "Transfer-Encoding" in self.headers:
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.seen.append(("POST", self.path))
        if self.path.endswith("/preupload/main"):
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            self.reply({"files": [{**each, "shouldIgnore": False} for each in files]})
        elif "/commit/" in self.path:
            type(self).commit = [json.loads(line) for line in body.splitlines()]
            self.reply({"commitUrl": f"{self.repository}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True})
        else:
            self.reply({"url": self.repository, "id": "me/out", "name": "me/out"})

    def do_GET(self):
        self.seen.append(("GET", self.path))
        self.reply({"id": "me/out", "sha": "0" * 40, "siblings": [], "type": "user", "name": "me", "tags": []})

    def reply(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        """Say nothing."""


def test_the_hub_gets_the_folder_with_its_card(model, tmp_path):
    Hub.seen, Hub.commit = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    flags = ["--model", model, "--data", pairs, "--output", tmp_path / "out", "--max_steps", 1, "--use_cpu"]
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "ropo", "train", *flags, "--push_to_hub", "--hub_model_id", "me/out"]
    environment = {**os.environ, **hub, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, env=environment, check=False)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "push_to_hub: failed" not in done.stdout, done.stdout
    assert ("POST", "/api/repos/create") in Hub.seen
    files = {each["value"]["path"] for each in Hub.commit if each["key"] == "file"}
    assert {"README.md", "run.json", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    assert not any("checkpoint" in name for name in files)
