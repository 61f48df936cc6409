"""Kill a process of a run under FSDP2 at random moments, go on each time, and compare with a run that nobody killed.

    python -m benchmarks.kill_at_random --kills 20

Two processes on a CPU (gloo), a tiny model. Each time a process drawn at random gets SIGKILL at a random moment from
when the processes know each other; the other one must end within a minute, with a line that names the killed one. What
comes out in the end must be, to 1e-6, the weights of the run that nobody killed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

from tests.cli.conftest import MANY, write_pairs
from tests.cli.processes import command_line
from tests.tiny.sampled import save_tiny
from tests.training.distributed.sharded import FSDP2
from tests.training.together import start_together

STEPS = 60
MINUTE = 60.0


def main() -> None:
    """Kill, go on, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ropo-kills-"))
    model, data = save_tiny(folder / "model"), write_pairs(folder / "pairs.jsonl", MANY)
    chance = random.Random(options.seed)
    began = time.monotonic()
    _finish(folder / "log", _arguments(model, data, folder / "whole"))
    length = time.monotonic() - began
    print(f"uninterrupted: {length:.1f} s")
    killed, rounds, tried, ends = 0, 0, 0, []
    while killed < options.kills:
        tried += 1
        out, log = folder / f"out{rounds}", folder / f"log{tried}"  # a run is killed until it ends
        running = start_together(command_line, log, _arguments(model, data, out, "--resume"), **FSDP2)
        _wait_until_they_know_each_other(running, log / "log0")
        victim = chance.randrange(2)
        running[victim].join(chance.uniform(0.0, 0.4 * length))
        if running[victim].is_alive():
            os.kill(running[victim].pid, signal.SIGKILL)
            since = time.monotonic()
            running[1 - victim].join(MINUTE)
            running[victim].join()
            assert not running[1 - victim].is_alive(), "the other one hangs"
            ends.append(time.monotonic() - since)
            killed += 1
            said = _last_line(log / f"log{1 - victim}")
            print(f"kill {killed}: process {victim}; {ends[-1]:.1f} s later: {said[:70]} ...", flush=True)
            if (out / "run.json").exists():  # all was saved when it was killed
                continue
            assert re.search(rf"process {victim} \(pid \d+\) has ended, so process {1 - victim} stops", said)
            assert running[1 - victim].exitcode == 1
        if killed < options.kills and not (out / "run.json").exists():
            continue
        if not (out / "run.json").exists():
            _finish(folder / "last", _arguments(model, data, out, "--resume"))
        _compare(out, folder / "whole")
        rounds += 1
    print(f"{killed} kills; the other ended after {max(ends):.1f} s at most")


def _arguments(model: str, data: Path, out: Path, *more: str) -> list[str]:
    steps = ("--max_steps", STEPS, "--per_device_train_batch_size", 2, "--logging_steps", 20, "--use_cpu")
    saving = ("--save_strategy", "steps", "--save_steps", 5, "--save_total_limit", 3)
    return [str(each) for each in ("train", "--model", model, "--data", data, "--output", out, *steps, *saving, *more)]


def _finish(log: Path, arguments: list[str]) -> None:
    for each in (running := start_together(command_line, log, arguments, **FSDP2)):
        each.join()
    assert [each.exitcode for each in running] == [0, 0], (log / "log0").read_text()


def _compare(out: Path, whole: Path) -> None:
    found, expected = (load_file(each / "adapter_model.safetensors") for each in (out, whole))
    worst = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    print(f"{out.name}: weights differ by {worst:.1e} at most")
    assert worst <= 1e-6


def _last_line(log: Path) -> str:
    """Return the last line that is the command's own."""
    lines = log.read_text().splitlines()
    return next((line for line in reversed(lines) if line.startswith("ropo train: ")), "")


def _wait_until_they_know_each_other(running: list, log: Path) -> None:
    deadline = time.monotonic() + 2 * MINUTE
    while running[0].is_alive() and time.monotonic() < deadline:
        if log.exists() and "method" in log.read_text():
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
