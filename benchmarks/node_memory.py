r"""Measure what memory each process of `ropo train` takes on SmolLM2, in one process and in two under FSDP2.

    MALLOC_MMAP_THRESHOLD_=1000000 MALLOC_TRIM_THRESHOLD_=1000000 \
        python -m benchmarks.node_memory --model FOLDER --data pairs.jsonl

The two variables keep malloc from hoarding what has been given back, which would count.

Bytes on top of what the process had when the model was to be read: at most while it was read, at rest in training once
what malloc hoards is given back, and at most in the third step. CPU, gloo, float32 weights, one pair a process. `.gguf`
files are read by every process, so give a folder of safetensors.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ropo.cli.main import main as command
from ropo.runs import train as one_run
from tests.cli.processes import shard_on_cpus
from tests.training.distributed.sharded import FSDP2
from tests.training.together import start_together

STEPS = 3


class Measured(TrainerCallback):
    """Write down what a step takes."""

    def __init__(self, found: dict[str, float], before: int) -> None:
        self.found, self.before = found, before

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the peak anew before the last step."""
        if state.global_step == STEPS - 1:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what malloc only hoards is not the run's
            self.found["at rest"] = _resident("VmRSS") - self.before
            Path("/proc/self/clear_refs").write_text("5")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read it."""
        if state.global_step == STEPS:
            self.found["a step"] = _resident("VmHWM") - self.before


def main() -> None:
    """Print a table for docs/guides/node.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    print("| | while it is read | at rest | a step |\n|---|---|---|---|")
    for method in ("ropo", "full"):
        for count, environment in ((1, {}), (2, FSDP2)):
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder)
                arguments = ["train", "--model", options.model, "--data", options.data, "--output", str(work / "out")]
                arguments += ["--method", method, "--max_steps", str(STEPS), "--per_device_train_batch_size", "1"]
                arguments += [
                    "--max_length",
                    "128",
                    "--skip_long_prompts",
                    "--use_cpu",
                    "--dtype",
                    "float32",
                    "--save_strategy",
                    "no",
                ]
                running = start_together(_measure, work, arguments, folder, count=count, **environment)
                for process in running:
                    process.join()
                if any(process.exitcode for process in running):
                    raise SystemExit((work / "log0").read_text())
                for rank in range(count):
                    found = json.loads((work / f"found{rank}").read_text())
                    row = " | ".join(f"{found[name] / 1e6:,.0f} MB" for name in ("reading", "at rest", "a step"))
                    print(f"| {method}, {'alone' if count == 1 else f'process {rank} of 2'} | {row} |", flush=True)


def _measure(arguments: list[str], folder: str) -> None:
    """Run the command and write down what it took."""
    found: dict[str, float] = {}
    load, build = one_run.load_models, one_run.build_trainer
    before = 0

    def load_models(*args: Any) -> Any:
        nonlocal before
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        loaded = load(*args)
        found["reading"] = _resident("VmHWM") - before
        return loaded

    def build_trainer(*args: Any) -> Any:
        trainer = build(*args)
        trainer.add_callback(Measured(found, before))
        return trainer

    one_run.load_models, one_run.build_trainer = load_models, build_trainer
    if os.environ.get("ACCELERATE_USE_FSDP"):
        shard_on_cpus()
    status = command(arguments)
    Path(folder, f"found{os.environ['RANK']}").write_text(json.dumps(found))
    raise SystemExit(status)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
