"""Planted failures must trip the right warning of `HackingMonitor`, and only it."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from ropo import RopoConfig
from ropo.core.errors import UserError
from ropo.diagnostics import SIGNALS, Signal
from ropo.training.monitor import HackingMonitor, evenly_spread
from tests.training.monitored import (
    CHOSEN,
    LONG,
    PLAIN,
    REJECTED,
    SENTENCES,
    SPARE,
    answered,
    base,
    fit,
    logged,
    make_trainer,
    monitored,
)

__all__ = ["base"]  # a fixture

LONGER = [
    "no yes on a cat sat two one dog ran slow the mat fast . three a yes one on cat no sat dog two ran cat yes mat one"
] * 4
REPEATED = ["cat cat cat cat cat cat cat cat"] * 4


def repeats(model: Any) -> Any:
    kept = [(2.0, answered(CHOSEN)), (0.5, answered(REJECTED)), (1.0, PLAIN)]
    return fit(model, 60, *kept, (6.0, answered(REPEATED)))


def rejects(model: Any) -> Any:
    return fit(model, 40, (1.0, answered(CHOSEN)), (0.3, answered(LONG)), (1.0, PLAIN))  # rejected is left out


def displaces(model: Any) -> Any:
    return fit(model, 10, (1.0, answered(REJECTED)), (1.0, answered(LONG)), (1.0, PLAIN))  # chosen is left out


def grows(model: Any) -> Any:
    kept = [(1.0, answered(CHOSEN)), (0.5, answered(REJECTED)), (1.0, PLAIN)]
    return fit(model, 60, *kept, (4.0, answered(LONGER)))


def forgets(model: Any) -> Any:
    kept = [(5.0, answered(answers)) for answers in (CHOSEN, REJECTED, LONG)]
    return fit(model, 10, *kept, (-0.5, PLAIN))


def collapses(model: Any) -> Any:
    weight = model.model.layers[0].mlp.up_proj.weight.data
    weight[SPARE] = 2.0 * weight[0]
    return model


PLANTS: dict[str | None, Callable[[Any], Any]] = {
    "repetition": repeats,
    "rejected_collapse": rejects,
    "displacement": displaces,
    "length_growth": grows,
    "forgetting": forgets,
    "neuron_collapse": collapses,
    None: lambda model: model,
}


def test_every_signal_has_a_plant() -> None:
    assert {signal.name for signal in SIGNALS} == {name for name in PLANTS if name}


@pytest.mark.parametrize("name", PLANTS)
def test_planted_failure_trips_its_warning_and_only_it(name: str | None, base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=1)
    monitor, lines = monitored(trainer)
    planted = PLANTS[name](copy.deepcopy(base)).state_dict()

    class Plant(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:  # after the reference is measured
            trainer.model.load_state_dict(planted)

    trainer.add_callback(Plant())
    trainer.train()
    assert list(monitor.warned) == ([name] if name else [])
    assert len(lines) == len(monitor.warned)
    if name:
        step, value = monitor.warned[name]
        assert step == 1
        [signal] = [signal for signal in SIGNALS if signal.name == name]
        [line] = lines
        assert line.startswith(f"step 1: {name}: {signal.meaning.format(value)} (warns ")
        assert re.search(r"; try .*--\w+.* \(.*\d.*\)$", line), line  # flags, and the number that chose them
        assert ("by chance with p = " in line) == (name != "neuron_collapse")  # which is counted, not sampled
        assert logged(trainer, f"hacking/{signal.measure}") == [value]
        assert logged(trainer, f"hacking/warning/{name}") == [1.0]


@pytest.mark.parametrize("method", ["ropo", "lora"])
def test_adapters_are_measured_against_their_base(method: str, base: Any, tmp_path: Any) -> None:
    targets = ["q_proj", "v_proj"]
    config = RopoConfig(target_modules=targets) if method == "ropo" else LoraConfig(target_modules=targets)
    trainer = make_trainer(base, tmp_path, config, learning_rate=1e-2, max_steps=6)
    monitored(trainer, every=3)
    trainer.train()
    margins, cosines = logged(trainer, "hacking/margin"), logged(trainer, "hacking/largest_cosine_change")
    assert len(margins) == len(cosines) == 2  # steps 3 and 6
    assert 0.0 < margins[0] < margins[1]
    if method == "ropo":
        assert max(cosines) < 1e-5
        assert all(abs(change) < 1e-6 for change in logged(trainer, "hacking/energy_change"))
    else:
        assert cosines[1] > 1e-3


def test_watching_does_not_disturb_training(base: Any, tmp_path: Any) -> None:
    losses, states = [], []
    for watched in (False, True):
        config = RopoConfig(target_modules=["q_proj", "v_proj"])
        torch.manual_seed(3)
        trainer = make_trainer(base, tmp_path, config, learning_rate=1e-2, max_steps=4)
        if watched:
            monitored(trainer, every=1)
        trainer.train()
        losses.append(logged(trainer, "loss"))
        states.append(torch.get_rng_state())
        assert len(logged(trainer, "hacking/margin")) == (4 if watched else 0)
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
    assert torch.equal(*states)


def test_training_metrics_are_not_flushed_by_a_measurement(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=4, logging_steps=4)
    monitored(trainer, every=1)
    trainer.train()
    assert len(logged(trainer, "rewards/margins")) == 1
    assert all("rewards/margins" not in entry for entry in trainer.state.log_history if "hacking/margin" in entry)


def test_a_warning_is_printed_once_and_logged_each_time(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=3)
    always = Signal("always", "accuracy", -1.0, "accuracy is {:.1f}")
    monitor, lines = monitored(trainer, every=1, signals=(always,))
    trainer.train()
    assert len(lines) == 1
    assert lines[0].startswith("step 1: always: accuracy is ")
    assert logged(trainer, "hacking/warning/always") == [1.0] * 3
    assert monitor.warned["always"][0] == 1


@pytest.mark.parametrize(("stop", "steps"), [(True, 2), (False, 4)])
def test_early_stop(stop: bool, steps: int, base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=4)
    monitored(trainer, every=2, stop=stop, signals=(Signal("always", "accuracy", -1.0, "{}"),))
    trainer.train()
    assert trainer.state.global_step == steps


def test_a_run_that_a_warning_ended_does_not_go_on_when_it_is_resumed(base: Any, tmp_path: Any) -> None:
    for resumed in (None, str(tmp_path / "checkpoint-2")):
        trainer = make_trainer(base, tmp_path, save_strategy="steps", save_steps=2)
        monitor, lines = monitored(trainer, every=2, stop=True, signals=(Signal("always", "accuracy", -1.0, "{}"),))
        trainer.train(resumed)
        assert trainer.state.global_step == monitor.warned["always"][0] == 2
        told = [] if resumed else ["always: 0.75", "training ends here, at its first warning"]
        assert len(lines) == len(told)  # each once, in the run that it ended
        assert all(part in line for part, line in zip(told, lines, strict=True))


def test_short_runs_are_measured_at_their_end(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=2)
    monitored(trainer)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "hacking/margin" in entry] == [2]


def test_without_text_forgetting_is_not_measured(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=1)
    trainer.add_callback(HackingMonitor(trainer, max_new_tokens=4))
    trainer.train()
    assert logged(trainer, "hacking/margin")
    assert not logged(trainer, "hacking/text_loss_rise")
    assert all(math.isfinite(value) for value in trainer.state.log_history[0].values())


def test_without_prompts_there_is_no_divergence(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=1)
    monitor = HackingMonitor(trainer, max_new_tokens=4)
    monitor.held_out = replace(monitor.held_out, prompts=[])
    trainer.add_callback(monitor)
    trainer.train()
    assert logged(trainer, "hacking/margin")
    assert not logged(trainer, "hacking/kl_per_token")
    assert not logged(trainer, "hacking/length_ratio")


def test_numbers_reach_every_logger_as_plain_numbers(base: Any, tmp_path: Any) -> None:
    """TensorBoard, trackio and wandb take what `on_log` gives; TensorBoard leaves out what is no int or float."""
    trainer = make_trainer(base, tmp_path, max_steps=2)
    seen: list[dict[str, Any]] = []

    class Logger(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.append({name: value for name, value in logs.items() if name.startswith("hacking/")})

    trainer.add_callback(Logger())
    monitored(trainer, every=1, signals=(Signal("always", "accuracy", -1.0, "{}"),))
    trainer.train()
    found = [logs for logs in seen if logs]
    assert len(found) == 2
    for logs in found:
        assert {"hacking/margin", "hacking/length_ratio", "hacking/text_loss_rise", "hacking/warning/always"} <= set(
            logs
        )
        assert all(type(value) in (int, float) and math.isfinite(value) for value in logs.values())


def test_a_slice_too_small_to_be_sure_is_told(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=1)
    _, lines = monitored(trainer, pairs=6)
    trainer.train()
    assert lines == [
        "monitor: only 6 held-out pairs, so neither log-probs nor answers can trigger a warning; it takes 7"
    ]
    trainer = make_trainer(base, tmp_path, max_steps=1)
    lines = []
    trainer.add_callback(HackingMonitor(trainer, text=SENTENCES, max_new_tokens=4, warn=lines.append))
    trainer.train()
    assert lines == [
        "monitor: only 1 pieces of 64 tokens of plain text, so forgetting cannot trigger a warning; it takes 7"
    ]


def test_weights_that_are_not_finite_end_in_one_clear_line(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=2)
    monitor, _ = monitored(trainer, every=1)
    monitor.measure_reference()
    trainer.model.model.layers[1].mlp.up_proj.weight.data[3, 4] = math.nan
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj: must be finite, has 1 NaN"):
        monitor.measure()
    trainer.model.load_state_dict(base.state_dict())
    trainer.model.model.norm.weight.data[0] = math.nan  # in no layer that is watched
    with pytest.raises(UserError, match="model: its next-token logits are NaN"):
        monitor.measure()


def test_bad_input(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path)
    for name in ("every", "pairs", "layers"):
        with pytest.raises(UserError, match=f"HackingMonitor {name}: must be at least 1, got 0"):
            HackingMonitor(trainer, **{name: 0})
    with pytest.raises(UserError, match="at least two tokens"):
        HackingMonitor(trainer, text="cat")
    trainer.eval_dataset = None
    with pytest.raises(UserError, match="needs held-out pairs"):
        HackingMonitor(trainer)


def test_spread() -> None:
    names = [str(number) for number in range(10)]
    assert evenly_spread(names, 12) == names
    assert evenly_spread(names, 4) == ["0", "3", "6", "9"]
    assert evenly_spread(names, 1) == ["0"]


def test_the_monitors_time_is_not_in_the_tokens_per_second(base, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ropo.training.packing.packer.time", SimpleNamespace(perf_counter=lambda: now[0]))
    observed = HackingMonitor._observe

    class Takes(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            now[0] += 1.0

    def observe(monitor, model):
        now[0] += 100.0
        return observed(monitor, model)

    monkeypatch.setattr(HackingMonitor, "_observe", observe)
    speeds = []
    for watched in (False, True):
        trainer = make_trainer(base, tmp_path / str(watched), max_steps=3, logging_steps=3)
        trainer.add_callback(Takes())
        if watched:
            monitored(trainer, every=1, pairs=2, max_new_tokens=2)
        trainer.train()
        speeds += logged(trainer, "unique_tokens_per_second")
    assert now[0] > 300
    assert len(speeds) == 2
    assert speeds[0] == pytest.approx(speeds[1])
