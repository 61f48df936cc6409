"""Write the prompts of this experiment: training prompts, held-out prompts, and prompts of the held-out family."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ropo.instructions import HELD_OUT_FAMILY, INSTRUCTIONS, generate_prompts

# Kinds that SmolLM2-135M-Instruct satisfies in 5 % to 80 % of its answers, so that its samples differ.
TRAINED = (
    "at_most_words",
    "words_between",
    "sentences",
    "avoid_word",
    "include_word",
    "numbered",
    "bullets",
    "start_with",
)
HELD_OUT = tuple(name for name, instruction in INSTRUCTIONS.items() if instruction.family == HELD_OUT_FAMILY)


def write(path: Path, records: list[dict[str, object]]) -> None:
    """Write records as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    print(f"{len(records)} prompts: {path}")


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--train", type=int, required=True, help="training prompts")
    parser.add_argument("--test", type=int, required=True, help="held-out prompts of the trained kinds")
    parser.add_argument("--family", type=int, required=True, help="held-out prompts of the held-out family")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.output / "train.prompts.jsonl", generate_prompts("train", args.train, args.seed, TRAINED))
    write(args.output / "test.prompts.jsonl", generate_prompts("test", args.test, args.seed, TRAINED))
    write(args.output / "family.prompts.jsonl", generate_prompts("test", args.family, args.seed, HELD_OUT))


if __name__ == "__main__":
    main()
