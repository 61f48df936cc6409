"""Pairs trained a second: TRL at its best, ours without sharing prompts (padding-free alone), ours."""

from __future__ import annotations

import gc
import random
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import training_speed
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import ropo
from gpu_parts.machine import ROOT, device, peak_memory
from gpu_parts.models import random_model, shape
from ropo.training.memory import Lengths, Memory, estimate


def cases(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the cases: TRL's best order first, grouped by length, then the order that both have by default."""
    named: dict[str, Callable[[], dict[str, Any]]] = {}
    for order in ("grouped", "random"):
        for data in ("ultrafeedback", "hh_harmless"):
            named[f"{data}, {order}"] = partial(compare, tiny, data, order)
    return dict(list(named.items())[:1]) if tiny else named


def compare(tiny: bool, data: str, order: str) -> dict[str, Any]:
    """Train the same batches of real pairs with each, on a fresh 8B-shaped model."""
    steps, batch = (2, 2) if tiny else (6, 8)
    arguments = Namespace(
        method="ropo", pairs=200, steps=steps, batch_size=batch, max_length=1024, checkpointing=True, threads=None
    )
    tokenizer, pairs = word_pairs() if tiny else real_pairs(data, arguments.pairs)
    runs: dict[str, dict[str, Any]] = {}
    for contestant in training_speed.CONTESTANTS:
        with tempfile.TemporaryDirectory() as folder, peak_memory() as peak:
            given = random_model(tiny), tokenizer, pairs
            runs[contestant] = training_speed.train_one(arguments, contestant, order, folder, *given)
            runs[contestant]["peak_gib"] = peak()
        del given
        gc.collect()
    peaks = {name: run["peak_gib"] for name, run in runs.items()}
    largest = max(runs["ropo"]["tokens"], key=lambda tokens: tokens["ropo"])
    return {
        **training_speed.side_by_side({name: [run] for name, run in runs.items()}),
        "peak_gib": peaks,
        "planned_gib": round(planned(tiny, largest, batch).total / 2**30, 3),
    }


def planned(tiny: bool, tokens: dict[str, int], pairs: int) -> Memory:
    """Estimate what our largest batch takes, as `ropo train --plan` would, for pairs of its mean lengths."""
    prompt = (tokens["padding-free"] - tokens["ropo"]) // pairs + 1
    answer = (tokens["ropo"] // pairs - prompt + 1) // 2
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape(tiny), dtype=torch.bfloat16)
    return estimate(
        model, ropo.RopoConfig(), [Lengths(prompt, answer, answer)] * pairs, device().type, torch.bfloat16, True
    )


def real_pairs(data: str, count: int) -> tuple[Any, Dataset]:
    """Return SmolLM2's tokenizer, and pairs with their true lengths."""
    from ropo.lm.loading import load_tokenizer

    carried = sorted((ROOT / ".model").glob("*.gguf"))
    tokenizer = load_tokenizer(str(carried[0]) if carried else training_speed.default_model())
    return tokenizer, training_speed.load_pairs(data, count, tokenizer)


def word_tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that makes each word a token."""
    names = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(words - 3))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>"
    )


def word_pairs() -> tuple[Any, Dataset]:
    """Return pairs of random words, of many lengths."""
    generator = random.Random(0)

    def words(most: int) -> str:
        return "".join(f"w{generator.randrange(400)} " for _ in range(generator.randint(2, most)))

    rows: list[dict[str, Any]] = [{"prompt": words(30), "chosen": words(20), "rejected": words(20)} for _ in range(24)]
    for row in rows:
        row["length"] = len(row["prompt"].split()) + max(len(row[name].split()) for name in ("chosen", "rejected"))
    return word_tokenizer(500), Dataset.from_list(rows)
