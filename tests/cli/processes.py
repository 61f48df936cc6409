"""`ropo train` in two processes, on the command line."""

from __future__ import annotations

import os
import signal
import time

from accelerate import DistributedType, PartialState
from transformers import TrainerCallback

from ropo.cli.main import main
from ropo.runs import train as one_run
from ropo.training.trainer import PreferenceTrainer
from tests.cli.conftest import MANY, write_pairs
from tests.training.together import start_together

STEPS = 6


class Die(TrainerCallback):
    """Kill this process before its fourth step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def command_line(arguments: list[str], second_dies: bool = False) -> None:
    build = one_run.build_trainer

    def build_trainer(*args):
        trainer = build(*args)
        trainer.add_callback(Die())
        return trainer

    if second_dies and os.environ["RANK"] == "1":
        one_run.build_trainer = build_trainer
    if os.environ.get("ACCELERATE_USE_FSDP"):
        shard_on_cpus()
    raise SystemExit(main(arguments))


def shard_on_cpus() -> None:
    """Let accelerate take a CPU for an accelerator, which it would not shard on otherwise."""
    create = PreferenceTrainer.create_accelerator_and_postprocess

    def create_accelerator(self) -> None:
        PartialState().distributed_type = DistributedType.MULTI_XPU
        create(self)

    PreferenceTrainer.create_accelerator_and_postprocess = create_accelerator  # in a process of its own


def flags(model, data, output, *more) -> list[str]:
    held_out = write_pairs(data.with_name("held_out.jsonl"), MANY[:5])
    settings = ("--eval_data", held_out, "--max_steps", STEPS, "--per_device_train_batch_size", 2, "--use_cpu")
    saving = ("--logging_steps", 2, "--save_strategy", "steps", "--save_steps", 2, "--monitor_steps", STEPS)
    files = ("train", "--model", model, "--data", data, "--output", output)
    return [str(flag) for flag in (*files, *settings, *saving, *more)]


def run(folder, arguments, *more, seconds: float = 120, **environment) -> tuple[list[int], list[str]]:
    """Return the exit statuses, and what each process said."""
    running = start_together(command_line, folder, arguments, *more, **environment)
    deadline = time.monotonic() + seconds
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [process for process in running if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging
    torchs = ("[rank", "[Gloo]")  # how lines begin that torch itself prints
    said = [
        "\n".join(line for line in (folder / f"log{rank}").read_text().splitlines() if not line.startswith(torchs))
        for rank in (0, 1)
    ]
    return [process.exitcode for process in running], said
