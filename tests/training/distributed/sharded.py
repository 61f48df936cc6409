"""Trainers of tiny models whose weights are cut over processes on CPUs, by FSDP2 or DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType, PartialState
from peft import LoraConfig

from ropo import RopoConfig
from ropo.training.config import PreferenceConfig
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer

DEEPSPEED = importlib.util.find_spec("deepspeed")
with_deepspeed = pytest.mark.skipif(
    DEEPSPEED is None or shutil.which("g++") is None, reason="needs deepspeed, and g++ for its messages between CPUs"
)
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
METHODS = {
    "ropo": lambda: RopoConfig(task_type="CAUSAL_LM"),
    "lora": lambda: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "full": lambda: None,
}


class Sharded(PreferenceTrainer):
    """Let accelerate take a CPU for an accelerator, which it would not shard on otherwise."""

    def create_accelerator_and_postprocess(self):
        if os.environ.get("ACCELERATE_USE_FSDP"):
            PartialState().distributed_type = DistributedType.MULTI_XPU
        super().create_accelerator_and_postprocess()


def sharded_trainer(folder: Path, method: str, held_out: int, **options) -> Sharded:
    """Return a trainer of a tiny model on twelve pairs, four in a batch of all processes together."""
    shared = {
        "per_device_train_batch_size": 4 // int(os.environ.get("WORLD_SIZE", "1")),
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    torch.manual_seed(0)
    return Sharded(
        tiny_model(),
        ref_model=tiny_model() if method == "full" else None,
        args=PreferenceConfig(str(folder), **{**shared, **options}),
        train_dataset=tiny_pairs(12),
        eval_dataset=tiny_pairs(held_out, seed=9),
        processing_class=tiny_tokenizer(),
        peft_config=METHODS[method](),
    )


def write_deepspeed(folder: Path, stage: int, bf16: bool = False) -> None:
    """Tell this process about DeepSpeed as `accelerate launch` does; its ZeRO-3 cuts a tiny model too."""
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    half = {"bf16": {"enabled": True}} if bf16 else {}
    file = folder.with_name(f"deepspeed{os.environ['RANK']}.json")
    file.write_text(json.dumps({"zero_optimization": zero, **dict.fromkeys(auto, "auto"), **half}))
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(file)


def deepspeed_environment() -> dict[str, str]:
    """Return the variables; DeepSpeed itself looks for the ninja that lies beside it."""
    assert DEEPSPEED is not None
    path = f"{Path(str(DEEPSPEED.origin)).parents[1] / 'bin'}{os.pathsep}{os.environ['PATH']}"
    flags = {"ACCELERATE_USE_CPU": "false", "ACCELERATE_USE_DEEPSPEED": "true"}
    return {"DS_ACCELERATOR": "cpu", "PATH": path, **flags}
