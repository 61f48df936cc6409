"""Watch for reward hacking and forgetting while a model trains."""

from __future__ import annotations

__all__ = ["HackingMonitor", "trained_layers"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ropo.core.errors import UserError
from ropo.core.once import say
from ropo.diagnostics import SIGNALS, Reading, Signal, hyperspherical_energy
from ropo.diagnostics.comparison import HeldOut, Observation, compare, observe, sampled_kl
from ropo.diagnostics.layers import layer_weight, linear_layers
from ropo.diagnostics.movement import cosine_changes
from ropo.diagnostics.pairs import all_cosines, check_weight, nonzero_rows
from ropo.diagnostics.signals import FEWEST, advise, triggered
from ropo.lm.adapters import evaluating
from ropo.lm.capacity import position_limit
from ropo.lm.sampling.settings import SamplingSettings
from ropo.lm.tokens import Limits, TokenPair, text_windows
from ropo.training.distributed.sharding import in_step, whole_copy
from ropo.training.reference import keeps_reference, reference_of, unwrapped
from ropo.training.remedies.average import as_saved
from ropo.training.remedies.kl_budget import KlBudget
from ropo.training.trainer import PreferenceTrainer

_NEURONS = 4096  # of a watched layer, the first ones
_WINDOW, _WINDOWS = 64, 16  # of the plain text: enough windows to tell a rise from chance


@dataclass(frozen=True)
class _WatchedWeights:
    """The first neurons of the watched layers, and their energy in all."""

    neurons: dict[str, Tensor]
    energy: float


class HackingMonitor(TrainerCallback):
    """Measure a slice of held-out data every k steps and warn by name where training goes wrong.

    The reference is measured once at the start; every k steps and at the end, the policy. The numbers are logged
    through the trainer as `hacking/...`, so they reach `metrics.jsonl`, TensorBoard, wandb and the like; each warning
    of `ropo.diagnostics.SIGNALS` is printed once, with the number that triggered it and the odds of it by chance.
    Training is not disturbed: no global random state is used, and dropout is off while measuring only.

    Where FSDP2 or ZeRO-3 has cut the weights all processes measure together: each layer is whole for its own part of a
    forward pass, and the watched ones are gathered one at a time.

    Args:
        trainer: A `trl.DPOTrainer` or `ropo.PreferenceTrainer` with an `eval_dataset`, whose first pairs are the slice.
        text: Plain text that the loss is measured on; None leaves forgetting unwatched.
        every: Optimizer steps from one measurement to the next.
        pairs: Held-out pairs in the slice; their prompts are answered too.
        layers: Trained linear layers to watch, spread evenly over the model.
        max_new_tokens: Longest sampled answer.
        stop: Whether the first warning ends training.
        kl_budget: Nats a token of KL(policy || reference) on the policy's own answers; a measurement above it ends
            training and brings back the weights of the last measurement within it, or of the start. None for no limit.
        signals: The warnings and their thresholds.
        warn: What prints a warning.

    Raises:
        UserError: If the trainer has no held-out pairs, a number is below 1, or there is a budget and no reference.

    Cost: a measurement is a forward pass over the pairs, in packs, `pairs` short answers, one more pass over these for
    the KL divergence, and up to 1,024 tokens of text; copies of the watched layers' weights where all weights are
    trained. docs/diagnostics.md has the measured overhead.
    """

    def __init__(
        self,
        trainer: Trainer,
        text: str | None = None,
        every: int = 100,
        pairs: int = 16,
        layers: int = 8,
        max_new_tokens: int = 128,
        stop: bool = False,
        kl_budget: float | None = None,
        signals: Sequence[Signal] = SIGNALS,
        warn: Callable[[str], None] = print,
    ) -> None:
        for name, value in (("every", every), ("pairs", pairs), ("layers", layers)):
            if value < 1:
                raise UserError(f"HackingMonitor {name}: must be at least 1, got {value}; leave it out for the default")
        self.trainer, self.every, self.stop, self.signals, self.warn = trainer, every, stop, signals, warn
        tokenizer: Any = trainer.processing_class
        self.tokenizer = tokenizer
        held_out = _held_out_slice(trainer, pairs)
        options: Any = trainer.args
        self.held_out = HeldOut(
            pairs=held_out,
            prompts=_answerable(unwrapped(trainer), held_out),
            windows=text_windows(tokenizer, text, _WINDOW, _WINDOWS) if text is not None else [],
            settings=SamplingSettings(max_new_tokens=max_new_tokens),
            beta=options.beta,
            limits=Limits(options.max_length, options.truncation_mode),
        )
        trained = trained_layers(trainer.model)
        if not trained:
            raise UserError(
                "HackingMonitor: the model has no trainable linear layer to watch; check the adapter's targets"
            )
        self.layers = evenly_spread(trained, layers)
        self.reference: tuple[Observation, _WatchedWeights] | None = None
        self.warned: dict[str, tuple[int, float]] = {}
        self.last: dict[str, float] = {}
        self.last_step = -1
        self.budget = None if kl_budget is None else KlBudget(trainer, kl_budget)
        if self.budget is not None and not keeps_reference(trainer):
            raise UserError(
                "stop_at_kl: needs the reference in training, and its log-probs were computed in advance or it moves; "
                "leave out precompute_ref_log_probs or sync_ref_model"
            )
        if self.budget is not None and not self.held_out.prompts:
            raise UserError(
                "stop_at_kl: needs prompts to answer, and every held-out prompt fills the model's positions; give "
                "shorter ones"
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the reference, and remember the warnings of a run that goes on."""
        if self.reference is None:
            self.measure_reference()
        if state.is_world_process_zero:
            for reason in self._too_few():
                self.warn(f"monitor: only {reason} trigger a warning; it takes {FEWEST}")
        if self.budget is not None and not state.global_step:
            self.budget.begin()
        for entry in state.log_history:
            if "hacking/margin" in entry:
                self.last = _as_numbers(entry)
            for signal in self.signals:
                if f"hacking/warning/{signal.name}" in entry:
                    first = (int(entry["step"]), entry[f"hacking/{signal.measure}"])
                    self.warned.setdefault(signal.name, first)
        passed = self.budget is not None and self.budget.passed_at is not None
        if passed or (self.warned and self.stop):
            control.should_training_stop = True

    def measure_reference(self) -> None:
        """Measure the reference; where training goes on from a checkpoint, to be called before that is loaded."""
        with _measuring(self.trainer), reference_of(self.trainer) as reference:
            self.reference = self._observe(reference)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the policy every k steps."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._watch(state, control)

    def _watch(self, state: TrainerState, control: TrainerControl) -> None:
        if state.global_step == self.last_step:  # TRL and transformers may end one step twice
            return
        self.last_step = state.global_step
        readings = self.measure()
        found = triggered(readings, self.signals)
        logs = {f"hacking/{name}": reading.value for name, reading in readings.items()}
        logs |= {f"hacking/warning/{signal.name}": 1.0 for signal in found}
        self.last = _as_numbers({"step": state.global_step, **logs})
        # Not the trainer's own `log`: TRL's would flush the training metrics of the unfinished interval into it. And
        # transformers takes any log for the one that is due at this step, which is still to come.
        due = control.should_log
        Trainer.log(self.trainer, logs)
        control.should_log = due
        for signal in found:
            if signal.name not in self.warned:
                reading = readings[signal.measure]
                self.warned[signal.name] = (state.global_step, reading.value)
                if state.is_world_process_zero:
                    said = signal.describe(reading) + advise(signal.name, readings)
                    self.warn(f"step {state.global_step}: {said}")
        if found and self.stop:
            control.should_training_stop = True
            if state.is_world_process_zero:
                self.warn(f"step {state.global_step}: training ends here, at its first warning (stop_on_warning)")
        if self.budget is not None and self.budget.look(state.global_step, readings["kl_per_token"].value):
            control.should_training_stop = True
            if state.is_world_process_zero:
                self.warn(f"step {state.global_step}: {self.budget.describe()}")

    def measure(self) -> dict[str, Reading]:
        """Measure the policy against the reference: every number by its name, with the sampled units behind it."""
        before: Any = self.reference
        policy = unwrapped(self.trainer)
        with _measuring(self.trainer), as_saved(self.trainer):
            found, weights = self._observe(policy)
            kl = None
            if keeps_reference(self.trainer) and self.held_out.allows_kl:
                kl = sampled_kl(policy, lambda: reference_of(self.trainer), self.held_out.prompts, found.samples)
        compared = compare(self.held_out, found, before[0], kl)
        numbers = {**compared.numbers(), **_compare_weights(weights, before[1])}
        return {name: Reading(value) for name, value in numbers.items()} | compared.readings()

    def _observe(self, model: Any) -> tuple[Observation, _WatchedWeights]:
        modules = linear_layers(model)
        neurons = {name: _watched_neurons(name, modules[name]) for name in self.layers}  # first: names a broken layer
        energy = sum(map(hyperspherical_energy, neurons.values()))
        with in_step(model):
            observed = observe(model, self.tokenizer, self.held_out)
        return observed, _WatchedWeights(neurons, energy)

    def _too_few(self) -> Iterator[str]:
        """Say what can trigger nothing, because no change of so few units is more than chance."""
        if len(self.held_out.pairs) < FEWEST:
            yield f"{len(self.held_out.pairs)} held-out pairs, so neither log-probs nor answers can"
        if 0 < len(self.held_out.windows) < FEWEST:
            yield f"{len(self.held_out.windows)} pieces of {_WINDOW} tokens of plain text, so forgetting cannot"


def _as_numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return a measurement's step and numbers, without the prefix of the log and without the warnings."""
    own = {name.removeprefix("hacking/"): value for name, value in entry.items() if name.startswith("hacking/")}
    return {"step": entry["step"], **{name: value for name, value in own.items() if not name.startswith("warning/")}}


def _compare_weights(found: _WatchedWeights, before: _WatchedWeights) -> dict[str, float]:
    """Return the change of the energy over all watched layers, the largest change of a cosine, and collapsed pairs."""
    changes = [_changes_of(found.neurons[name], before.neurons[name]) for name in found.neurons]
    return {
        "energy_change": found.energy / before.energy - 1.0 if before.energy else 0.0,
        "largest_cosine_change": max(largest for largest, _ in changes),
        "collapsed_pairs": float(sum(collapsed for _, collapsed in changes)),
    }


def _held_out_slice(trainer: Trainer, most: int) -> list[TokenPair]:
    """Return the first held-out pairs of a trainer, as it tokenised them."""
    dataset: Any = trainer.eval_dataset
    if dataset is None or isinstance(dataset, dict) or not len(dataset):
        raise UserError(
            "HackingMonitor: needs held-out pairs, but the trainer's eval_dataset is not one data set with pairs; "
            "give the trainer one"
        )
    rows = (dataset[index] for index in range(min(most, len(dataset))))
    return [TokenPair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]


def _answerable(model: Any, pairs: Sequence[TokenPair]) -> list[Sequence[int]]:
    """Return the prompts that leave a position for an answer; cut from their beginning, longer ones are trained on."""
    limit = position_limit(model)
    prompts = [pair.prompt for pair in pairs if limit is None or len(pair.prompt) < limit]
    if len(prompts) < len(pairs):
        say(
            f"monitor: {len(pairs) - len(prompts)} of {len(pairs)} prompts fill the model's {limit} positions and are "
            "not answered; the log-probs of their answers are measured"
        )
    return prompts


def trained_layers(model: Any) -> list[str]:
    """Name the linear layers that training changes."""
    return [
        name
        for name, module in linear_layers(model).items()
        if any(parameter.requires_grad for parameter in module.parameters())
    ]


def evenly_spread(names: Sequence[str], most: int) -> list[str]:
    """Pick up to `most` names, evenly spread, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    steps = max(most - 1, 1)
    return [names[index * (len(names) - 1) // steps] for index in range(most)]


def _watched_neurons(name: str, module: nn.Module) -> Float[Tensor, "n d"]:
    """Copy the first neurons of a layer's weight; a copy, because training goes on."""
    weight = layer_weight(whole_copy(module))[:_NEURONS].clone()
    check_weight(weight, name)
    return weight


def _changes_of(weight: Float[Tensor, "n d"], reference: Float[Tensor, "n d"]) -> tuple[float, int]:
    """Return the largest change of a cosine between two neurons, and the number of pairs that collapsed."""
    both = nonzero_rows(weight) & nonzero_rows(reference)
    changes = cosine_changes(all_cosines(weight[both]), all_cosines(reference[both]))
    return (changes.largest, changes.collapsed) if changes is not None else (0.0, 0)


@contextmanager
def _measuring(trainer: Any) -> Iterator[None]:
    """Put the policy into evaluation mode, under the trainer's autocast, without gradients, past its clock."""
    untimed = trainer.untimed() if isinstance(trainer, PreferenceTrainer) else nullcontext()
    with evaluating(trainer.model), untimed, torch.no_grad(), trainer.accelerator.autocast():
        yield
