"""A YAML file that `trl dpo --config` reads trains here as it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from trl import DPOConfig, ModelConfig, ScriptArguments, TrlParser

from ropo.cli.main import main
from ropo.core.record import read_record

FILE = """
# Model
model_name_or_path: {model}
dtype: float32

# Data
dataset_name: {data}
dataset_train_split: train

# Training
output_dir: {output}
learning_rate: 5.0e-4
num_train_epochs: 2
per_device_train_batch_size: 2
gradient_accumulation_steps: 1
gradient_checkpointing: true
lr_scheduler_type: cosine
warmup_steps: 1
beta: 0.2
loss_type: [sigmoid]
max_length: 512
bf16: false
use_cpu: true
logging_steps: 1
eval_strategy: "no"
save_strategy: "no"
report_to: none
seed: 7

# Adapter
lora_r: 4
lora_target_modules: [q_proj, v_proj]
"""


def test_it_trains_with_the_same_options(model, pairs, tmp_path):
    (tmp_path / "dpo.yaml").write_text(FILE.format(model=model, data=pairs, output=tmp_path / "out"))
    _, theirs, _ = TrlParser((ScriptArguments, DPOConfig, ModelConfig)).parse_args_and_config(
        ["--config", str(tmp_path / "dpo.yaml")]
    )
    command = ["-m", "ropo", "train", "--config", str(tmp_path / "dpo.yaml"), "--method", "lora"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = read_record(tmp_path / "out")
    ours = record.config["trainer"]
    for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "beta", "max_length", "seed"):
        assert ours[name] == getattr(theirs, name), name
    for name in ("loss_type", "lr_scheduler_type", "warmup_steps", "gradient_checkpointing"):
        assert ours[name] == getattr(theirs, name), name
    assert record.metrics["steps"] == 4  # two epochs of two batches
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["r"], sorted(adapter["target_modules"])) == (4, ["q_proj", "v_proj"])


@pytest.mark.parametrize("line", ["learning_rat: 1.0e-5", "loss_type: [sigmoyd]"])
def test_what_trl_refuses_is_refused_in_one_line(model, pairs, tmp_path, capsys, line):
    file = FILE.format(model=model, data=pairs, output=tmp_path / "out").replace("lr_scheduler_type: cosine\n", "")
    (tmp_path / "dpo.yaml").write_text(file.replace("loss_type: [sigmoid]", line))
    assert main(["train", "--config", str(tmp_path / "dpo.yaml"), "--method", "lora"]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert line.split(":")[0] in told or "sigmoyd" in told
    assert not (tmp_path / "out").exists()
