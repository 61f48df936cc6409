"""`ropo train` under DeepSpeed, with the configurations that we ship, against one process."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from ropo.cli.main import main
from ropo.core.record import read_record
from tests.cli.conftest import MANY, write_pairs

FOUND = importlib.util.find_spec("deepspeed")
pytestmark = [
    pytest.mark.skipif(FOUND is None, reason="deepspeed is not installed"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed builds its messages between CPUs with g++"),
]

TRAJECTORY = 1e-4  # the bound over twenty steps
STEPS = 20
SHIPPED = Path(__file__).parents[2] / "examples" / "accelerate"
RATES = {"ropo": 1e-2, "full": 1e-4}
PAIRS = [{**pair, "prompt": f"{words} {pair['prompt']}"} for words in ("yes", "no", "one") for pair in MANY]


@pytest.fixture
def data(tmp_path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", PAIRS)


def flags(model, data, output, method: str, pairs: int) -> list[str]:
    held_out = write_pairs(data.with_name("held_out.jsonl"), MANY[:7])
    steps = ("--max_steps", STEPS, "--logging_steps", 1, "--per_device_train_batch_size", pairs, "--monitor_steps", 0)
    kind = () if (Path(model) / "adapter_config.json").exists() else ("--method", method)
    files = ("train", "--model", model, "--data", data, "--eval_data", held_out, "--output", output)
    return [str(flag) for flag in (*files, *steps, *kind, "--learning_rate", RATES[method])]


def launch(file: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Start two processes; DeepSpeed itself looks for the ninja that lies beside it."""
    assert FOUND is not None
    beside = Path(str(FOUND.origin)).parents[1]
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{beside / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", "2"]
    start += ["--main_process_port", "0"]  # any: the usual one may be taken
    # `--use_cpu` would make accelerate pass over DeepSpeed without a word
    command = [*start, "-m", "ropo", *arguments, "--ddp_backend", "gloo"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def configuration(name: str, folder: Path) -> Path:
    """Return a shipped file, or one by which ZeRO-3 cuts a tiny model's weights too, as it does not by default."""
    if name != "zero3 cut":
        return SHIPPED / f"{name}.yaml"
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    (folder / "cut.json").write_text(json.dumps({"zero_optimization": zero, **dict.fromkeys(auto, "auto")}))
    own = {"deepspeed_config_file": str(folder / "cut.json"), "zero3_init_flag": False}
    shipped = yaml.safe_load((SHIPPED / "zero3.yaml").read_text())
    del shipped["mixed_precision"]  # accelerate wants it in DeepSpeed's own file
    (folder / "cut.yaml").write_text(yaml.safe_dump({**shipped, "deepspeed_config": own}))
    return folder / "cut.yaml"


def logged(output: Path) -> list[dict]:
    """Return the logs of the steps."""
    entries = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if "loss" in entry]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("zero2", "ropo"),
        ("zero3", "ropo"),
        ("zero3 cut", "ropo further"),
        pytest.param("zero2", "full", marks=pytest.mark.slow),
        pytest.param("zero3 cut", "full", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_trajectory_of_one(model, data, tmp_path, name, method):
    """With an adapter, with one that has been trained before and is its own reference, and with all weights."""
    method, further = method.split()[0], method.endswith("further")
    if further:
        assert main([*flags(model, data, tmp_path / "first", method, 4), "--max_steps", "2", "--use_cpu"]) == 0
        model = tmp_path / "first"
    ended = launch(configuration(name, tmp_path), flags(model, data, tmp_path / "two", method, 2))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "cannot be packed" not in ended.stdout + ended.stderr
    assert main([*flags(model, data, tmp_path / "one", method, 4), "--use_cpu"]) == 0
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    assert abs(one[-1]["rewards/margins"]) > 10 * TRAJECTORY  # it learned something
    for name in ("loss", "learning_rate", "logps/chosen", "rewards/margins", "grad_norm"):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one], abs=TRAJECTORY)
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    weights, expected = load_file(tmp_path / "two" / file), load_file(tmp_path / "one" / file)
    assert weights.keys() == expected.keys()
    assert expected
    assert max((weights[each] - expected[each]).abs().max() for each in expected) <= TRAJECTORY
    margins = [read_record(tmp_path / folder).metrics["held_out"]["margins"] for folder in ("one", "two")]
    assert margins[1] == pytest.approx(margins[0], abs=TRAJECTORY)


def test_another_stage_is_refused_by_deepspeed(model, data, tmp_path):
    """So that the trajectory above is DeepSpeed's, and not that of processes that never asked it."""
    text = (SHIPPED / "zero2.yaml").read_text()
    assert text.count("zero_stage: 2") == 1
    (tmp_path / "zero7.yaml").write_text(text.replace("zero_stage: 2", "zero_stage: 7"))
    ended = launch(tmp_path / "zero7.yaml", flags(model, data, tmp_path / "two", "ropo", 2))
    assert ended.returncode != 0
    assert "DeepSpeedZeroConfig" in ended.stderr
