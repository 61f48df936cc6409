"""The configuration files for accelerate are read by accelerate, and say what `ropo train` needs."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[1] / "examples" / "accelerate"
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def launch_arguments(name: str) -> argparse.Namespace:
    """Merge a file into the launcher's arguments, as `accelerate launch` does."""
    arguments = launch_command_parser().parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), "train.py"])
    config = load_config_from_file(arguments.config_file)
    for part in ({**vars(config)}, config.fsdp_config, config.deepspeed_config):
        for key, value in part.items():
            setattr(arguments, key, value)
    return arguments


def test_every_file_is_known():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == KINDS[name]
    assert config.mixed_precision == "no"  # the word, not YAML's false
    assert bool(config.fsdp_config) == (name == "fsdp2")
    assert config.deepspeed_config.get("zero_stage") == {"zero2": 2, "zero3": 3}.get(name)
    known = set(vars(launch_command_parser().parse_args(["train.py"])))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known


def test_the_launcher_hands_fsdp2_on(monkeypatch):
    arguments = launch_arguments("fsdp2")
    arguments.use_fsdp, arguments.mixed_precision = True, "no"
    arguments.main_process_port = 0  # any: the usual one may be taken
    arguments.dynamo_backend, arguments.dynamo_mode = "no", "default"
    environment = prepare_multi_gpu_env(arguments)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.reshard_after_forward is True
