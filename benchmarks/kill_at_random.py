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
from tests.cli.test_processes import command_line
from tests.lm.sampling.tiny import save_tiny
from tests.training.distributed.test_trajectories import FSDP2
from tests.training.together import start_together

STEPS = 120
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
    killed, tried, ends = 0, 0, []
    while killed < options.kills:
        tried += 1
        out = folder / f"out{killed // 5}"  # a run is killed five times
        log = folder / f"log{tried}"
        running = start_together(command_line, log, _arguments(model, data, out, "--resume"), **FSDP2)
        _wait_until_they_know_each_other(running, log / "log0")
        time.sleep(chance.uniform(0.0, 0.6 * length))
        victim = chance.randrange(2)
        if not all(each.is_alive() for each in running):
            for each in running:
                each.join()
            print(f"try {tried}: had ended before it could be killed")
            _compare(out, folder / "whole")
            continue
        os.kill(running[victim].pid, signal.SIGKILL)
        since = time.monotonic()
        other = running[1 - victim]
        other.join(MINUTE)
        assert not other.is_alive(), "the other one hangs"
        running[victim].join()
        lines = (log / f"log{1 - victim}").read_text().strip().splitlines()
        said = next(line for line in reversed(lines) if line.startswith("ropo train: "))
        assert re.search(rf"process {victim} \(pid \d+\) has ended, so process {1 - victim} stops", said), lines[-5:]
        assert other.exitcode == 1
        ends.append(time.monotonic() - since)
        killed += 1
        print(f"kill {killed}: process {victim}; the other ended after {ends[-1]:.1f} s: {said[:60]} ...", flush=True)
        if killed % 5 == 0 or killed == options.kills:
            _finish(folder / f"last{killed}", _arguments(model, data, out, "--resume"))
            _compare(out, folder / "whole")
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


def _wait_until_they_know_each_other(running: list, log: Path) -> None:
    deadline = time.monotonic() + 2 * MINUTE
    while running[0].is_alive() and "method" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
