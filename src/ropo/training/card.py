"""The model card of a trained folder: the README.md whose front matter the hub, PEFT and TRL read."""

from __future__ import annotations

__all__ = ["CardFacts"]

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from transformers import PreTrainedModel

_MEASURED = {  # of `held_out_metrics`: name on the card, and what it says
    "accuracy": ("held-out accuracy", "share of pairs with a margin above 0"),
    "margin": ("held-out margin", "mean, in nats, times beta"),
    "loss": ("held-out DPO loss", "mean; ln 2 before training"),
    "chosen_after": ("log-prob of the chosen answer", "mean, in nats, after training"),
    "rejected_after": ("log-prob of the rejected answer", "mean, in nats, after training"),
}
_FILES = (".gguf", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
_ADAPTER = """    import ropo
    from peft import PeftModel
    model = PeftModel.from_pretrained(base_model, "this folder")

`ropo merge` makes a checkpoint that needs neither."""
_WHOLE = """    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("this folder")"""


@dataclass(frozen=True)
class CardFacts:
    """What a trainer does not know of its run.

    Attributes:
        command: The command line, without the program's name; empty in Python.
        data: Where the training pairs came from: hub id, folder or file.
        held_out: Where the held-out pairs came from; None for none.
        metrics: As in run.json.
    """

    command: Sequence[str] = ()
    data: str | None = None
    held_out: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


def write_card(
    folder: Path,
    model: PreTrainedModel | PeftModel,
    losses: str | Sequence[str],
    facts: CardFacts,
    name: str | None = None,
    tags: Sequence[str] = (),
) -> None:
    """Write the card of a trained model, in place of PEFT's, which is an empty form.

    Only what the hub can know is named in the front matter: a base model or data set that is a path here stands in the
    text alone.

    Args:
        folder: Where the model was saved.
        model: What was trained.
        losses: Its loss, or the losses that were added up, as trl.DPOConfig names them.
        facts: What is known of the run.
        name: Of the model; the folder's if left out.
        tags: More tags.
    """
    loss = losses if isinstance(losses, str) else "+".join(losses)
    adapted = isinstance(model, PeftModel)
    peft: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    base = str(peft.base_model_name_or_path if peft else model.config._name_or_path)
    method = str(peft.peft_type.value).lower() if peft else "full"
    name = name or folder.resolve().name.removesuffix(".incomplete")
    results = list(_results(facts))
    known: dict[str, Any] = {
        "base_model": base if _on_hub(base) else None,
        "datasets": [facts.data] if facts.data and _on_hub(facts.data) else None,
        "library_name": "peft" if adapted else "transformers",
        "pipeline_tag": "text-generation",
        "tags": sorted({"dpo", "trl", "ropo", "preference-optimization", method, *tags}),
    }
    if results:
        measured = [each.metric_type for each in results]
        known |= {"model_name": name, "eval_results": results, "metrics": measured}
    header = ModelCardData(**{key: value for key, value in known.items() if value is not None}).to_yaml()
    text = "\n".join(_text(name, base, method, loss, facts, adapted))
    ModelCard(f"---\n{header}\n---\n\n{text}\n").save(folder / "README.md")


def _results(facts: CardFacts) -> list[EvalResult]:
    found = facts.metrics.get("held_out") or {}
    source = facts.held_out or "held-out pairs"
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=source if _on_hub(source) else "preference-pairs",
            dataset_name=source,
            metric_type=metric,
            metric_name=label,
            metric_value=found[metric],
        )
        for metric, (label, _) in _MEASURED.items()
        if metric in found
    ]


def _text(name: str, base: str, method: str, loss: str, facts: CardFacts, adapted: bool) -> list[str]:
    lines = [
        f"# {name}",
        "",
        f"`{base}`, preference-tuned with [ropo](https://arxiv.org/abs/2508.17637) {version('ropo')}: method {method}, "
        f"loss {loss}" + (f", on {_count(facts)}`{facts.data}`." if facts.data else "."),
        "`run.json`, where it is beside this file, has every option, version and measurement.",
        "",
        "## Use",
        "",
        _ADAPTER if adapted else _WHOLE,
    ]
    found = facts.metrics.get("held_out") or {}
    if found:
        lines += ["", f"## Held-out pairs ({found['pairs']} of `{facts.held_out}`)", "", "| | | |", "|---|---|---|"]
        rows = ((label, found[key], what) for key, (label, what) in _MEASURED.items() if key in found)
        lines += [f"| {label} | {value:.4g} | {what} |" for label, value, what in rows]
    if facts.command:
        lines += ["", "## Made by", "", f"    ropo {shlex.join(facts.command)}"]
    versions = ", ".join(f"{each} {version(each)}" for each in ("trl", "peft", "transformers", "torch"))
    return [*lines, "", f"Versions: {versions}."]


def _count(facts: CardFacts) -> str:
    return f"{facts.metrics['pairs']} pairs of " if "pairs" in facts.metrics else ""


def _on_hub(source: str) -> bool:
    """Tell whether this may be a hub id, `name` or `owner/name`, and is neither a file nor anything that lies here."""
    parts = source.split("/")
    allowed = all(part and all(letter.isalnum() or letter in "-_." for letter in part) for part in parts)
    named = len(parts) <= 2 and allowed and not source.startswith((".", "-"))
    return named and not source.endswith(_FILES) and not Path(source).exists()
