"""AlpacaEval's own JSON formats: outputs of a model, and annotations of a judge."""

from __future__ import annotations

__all__ = ()

import csv
import hashlib
import json
import math
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ropo.core.errors import UserError
from ropo.core.files import check_file, write_atomically
from ropo.core.json_lines import parse_json, read_json
from ropo.lm.prompts import PromptRecord

HUB = "tatsu-lab/alpaca_eval"
PAGE = f"https://huggingface.co/datasets/{HUB}/resolve/main"
REFERENCE = "alpaca_eval_gpt4_baseline.json"  # the outputs of AlpacaEval 2's reference
_DIFFICULTIES = "instruction_difficulty.csv"  # of its instructions, as fitted over its leaderboard


@dataclass(frozen=True)
class Outputs:
    """One output a prompt, and the name of what wrote them."""

    generator: str
    texts: list[str]


def is_outputs_file(source: str) -> bool:
    """Tell whether a model on the command line is a file of its outputs."""
    return source.endswith(".json") and Path(source).is_file()


def reference_file() -> Path:
    """Return the outputs of AlpacaEval 2's reference from the hub or its cache.

    Raises:
        UserError: If the hub cannot be reached and the cache has them not.
    """
    try:
        return _hub_file(REFERENCE)
    except Exception as error:  # the hub answers with a dozen unrelated exception types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"reference outputs {HUB}/{REFERENCE}: the hub does not give them ({reason}); get "
            f"{PAGE}/{REFERENCE} and name it with --reference_outputs"
        ) from error


def difficulties_file() -> Path | None:
    """Return the difficulties of AlpacaEval's instructions from the hub or its cache; None where neither has them."""
    try:
        return _hub_file(_DIFFICULTIES)
    except Exception:  # as above; the result's notes say that they are missing
        return None


def _hub_file(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(HUB, name, repo_type="dataset"))


def read_output_records(path: Path) -> list[dict[str, Any]]:
    """Read a JSON array of objects with `instruction` and `output`, and perhaps `generator` and `dataset`.

    Raises:
        UserError: If the file is missing, is no such array, or a record lacks a field; names the record.
    """
    records = read_json("outputs", path)
    if not isinstance(records, list) or not records:
        raise UserError(
            f"outputs {path}: must be a JSON array of outputs, got {type(records).__name__}; see AlpacaEval"
        )
    for number, record in enumerate(records, start=1):
        for field in ("instruction", "output"):
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str) or (field == "instruction" and not value.strip()):
                raise UserError(
                    f"outputs {path}, record {number}: needs a text {field!r}, got {json.dumps(value)[:40]}; mend it"
                )
    return records


def prompts_of(records: Sequence[dict[str, Any]]) -> list[PromptRecord]:
    """Return the instructions of output records as prompts."""
    return [
        PromptRecord(
            {name: record[name] for name in ("instruction", "dataset") if name in record},
            [{"role": "user", "content": record["instruction"]}],
            number,
        )
        for number, record in enumerate(records, start=1)
    ]


def outputs_for(prompts: Sequence[PromptRecord], records: Sequence[dict[str, Any]], path: Path, name: str) -> Outputs:
    """Pick the output of each prompt by its instruction; an instruction that stands twice takes its outputs in turn.

    Raises:
        UserError: If some prompts have no output, or an instruction that several prompts have (conversations that end
            alike, say) has not as many: nobody knows then which output is whose.
    """
    known: dict[str, deque[str]] = defaultdict(deque)
    for record in records:
        known[record["instruction"]].append(record["output"])
    missing = [prompt for prompt in prompts if instruction_of(prompt) not in known]
    if missing:
        raise UserError(
            f"outputs {path}: lack {len(missing)} of {len(prompts)} prompts, the first on line {missing[0].line} "
            f"({instruction_of(missing[0])[:40]!r}); add them, or give the prompts that were answered"
        )
    asked = Counter(map(instruction_of, prompts))
    for instruction, count in asked.items():
        if 1 < count != len(known[instruction]):
            raise UserError(
                f"outputs {path}: must have one for each of the {count} prompts whose last turn is "
                f"{instruction[:40]!r}, got {len(known[instruction])}; write them in the order of the prompts"
            )
    texts = [known[instruction_of(prompt)].popleft() for prompt in prompts]
    return Outputs(str(records[0].get("generator") or name), texts)


def instruction_of(prompt: PromptRecord) -> str:
    """Return what AlpacaEval calls the instruction: the text of a prompt's last turn."""
    return prompt.turns[-1]["content"]


def read_difficulties(path: Path, prompts: Sequence[PromptRecord], order: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Read difficulties, and return that of each prompt.

    Args:
        path: A JSON object from instruction, or from the first 12 hex digits of the SHA-256 of its UTF-8 text, to
            difficulty; or AlpacaEval's `instruction_difficulty.csv`, whose first two columns are the place of an
            instruction, from 0, and its difficulty.
        prompts: What was asked.
        order: The instructions in the order that a CSV file counts in: that of the reference outputs.

    Raises:
        UserError: If the file is malformed, or lacks a prompt.
    """
    check_file("difficulties", path)
    try:
        if path.suffix.lower() == ".csv":
            known = _by_place(path.read_text(encoding="utf-8-sig"), order)
        else:
            known = parse_json(path.read_bytes())
            if not isinstance(known, dict):
                raise ValueError(f"is {type(known).__name__}")
        asked = [instruction_of(prompt) for prompt in prompts]
        found = [known.get(text, known.get(_instruction_sha(text))) for text in asked]
        values = np.array([_number(value) for value in found if value is not None])
    except (ValueError, IndexError, OverflowError, csv.Error) as error:
        raise UserError(
            f"difficulties {path}: must be a JSON object from instruction, or instruction_sha, to number, or "
            f"AlpacaEval's {_DIFFICULTIES} ({error}); mend it"
        ) from error
    lacking = [text for text, value in zip(asked, found, strict=True) if value is None]
    if lacking:
        raise UserError(
            f"difficulties {path}: lack {len(lacking)} of {len(prompts)} instructions, the first "
            f"{lacking[0][:40]!r} (instruction_sha {_instruction_sha(lacking[0])}); add them"
        )
    return values


def _instruction_sha(instruction: str) -> str:
    """Return what a file of difficulties may call an instruction: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(instruction.encode()).hexdigest()[:12]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{json.dumps(value)[:40]} is no finite number")
    return float(value)


def _by_place(text: str, order: Sequence[str]) -> dict[str, float]:
    """Read a CSV table whose first line names its columns."""
    _, *rows = csv.reader(text.splitlines())
    values: dict[int, float] = {}
    for place, value, *_ in rows:
        if int(place) < 0 or int(place) in values:
            raise ValueError(f"place {place} stands twice or is none")
        values[int(place)] = float(value)
    return {text: values[place] for place, text in enumerate(order) if place in values}


def write_outputs(path: Path, prompts: Sequence[PromptRecord], outputs: Outputs) -> None:
    """Write the outputs as AlpacaEval reads them (`alpaca_eval --model_outputs`)."""
    records = [
        {
            "instruction": instruction_of(prompt),
            "output": text,
            "generator": outputs.generator,
            **({"dataset": prompt.fields["dataset"]} if "dataset" in prompt.fields else {}),
        }
        for prompt, text in zip(prompts, outputs.texts, strict=True)
    ]
    write_atomically(path, json.dumps(records, ensure_ascii=False, indent=1) + "\n")


def write_annotations(
    path: Path,
    prompts: Sequence[PromptRecord],
    reference: Outputs,
    outputs: Outputs,
    wins: Sequence[float | None],
    annotator: str,
) -> None:
    """Write verdicts as AlpacaEval does: a `preference` from 1 (the reference is better) to 2 (the model is).

    No verdict is null.
    """
    records = [
        {
            "instruction": instruction_of(prompt),
            "output_1": first,
            "generator_1": reference.generator,
            "output_2": second,
            "generator_2": outputs.generator,
            "annotator": annotator,
            "preference": None if win is None else 1.0 + win,
        }
        for prompt, first, second, win in zip(prompts, reference.texts, outputs.texts, wins, strict=True)
    ]
    write_atomically(path, json.dumps(records, ensure_ascii=False, indent=1) + "\n")
