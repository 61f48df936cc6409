"""Everything that only a GPU can tell, in one command; results come line by line, so a run cut short still counts.

    python benchmarks/gpu.py --output gpu.jsonl       at most --budget seconds, most telling first
    python benchmarks/gpu.py --output gpu.jsonl       again: what is left, and what failed before
    python benchmarks/gpu.py --tiny                   every part on a CPU, in a minute: does it run at all?
    python benchmarks/gpu.py --output gpu.jsonl --parts layer step

Every part runs in a process of its own, since an error on a GPU takes its process with it; a case that fails leaves its
error as its record, and the next one is tried. On a lent machine: install what was carried there, then run, with
`.site` and `src` on PYTHONPATH (../shared/gpu/README.md); for a second run copy the first one's lines to the output.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = {"kernels": 60, "tests": 110, "layer": 50, "step": 90, "pairs": 180, "sampling": 50}
"""The parts in their order, and the most that each may take."""


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu.jsonl"), help="JSON Lines file to append to")
    parser.add_argument("--parts", nargs="+", default=list(SECONDS), choices=SECONDS, metavar="PART")
    parser.add_argument("--budget", type=float, default=390, help="seconds for all (390: a call of 7 minutes)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU, to see every part run")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--leave-out", nargs="*", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(given)


def read_lines(output: Path) -> list[dict]:
    """Read the records so far; a last line that was cut off is no record."""
    lines = output.read_text().splitlines() if output.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def finished(output: Path, part: str, tiny: bool) -> set[str]:
    """Return the cases of a part that need not run again: their last record is no error and found nothing wrong."""
    last = {line["case"]: line for line in read_lines(output) if line["part"] == part and line["tiny"] == tiny}
    return {case for case, line in last.items() if "error" not in line and line.get("ok", True)}


def run_part(arguments: argparse.Namespace, part: str, seconds: float) -> None:
    """Run what is left of a part, in as many processes as it takes."""
    lines = read_lines(arguments.output)
    known = [line["cases"] for line in lines if line["part"] == part and "cases" in line]
    if known and finished(arguments.output, part, arguments.tiny).issuperset(known[-1]):
        return
    ends, begun = time.monotonic() + seconds, len(lines)
    while True:
        tried = {line["case"] for line in read_lines(arguments.output)[begun:] if line["part"] == part}
        left_out = sorted(finished(arguments.output, part, arguments.tiny) | tried)
        command = [sys.executable, __file__, "--child", part, "--output", str(arguments.output)]
        command += [*["--tiny"] * arguments.tiny, "--budget", f"{ends - time.monotonic():.1f}"]
        status, said = run_within([*command, "--leave-out", *left_out], ends - time.monotonic())
        if status == 0:
            return
        lines = read_lines(arguments.output)[begun:]
        tried_now = {line["case"] for line in lines if line["part"] == part} - tried
        if status == 3 and tried_now and time.monotonic() < ends:  # the device was lost, and said so: go on after it
            continue
        why = f"it took more than {seconds:.0f} s" if status is None else f"its process ended with status {status}"
        write(arguments, {"part": part, "case": "(process)", "error": f"{why}: {said.strip()[-2000:]}"})
        return


def run_within(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Run a process and all that it starts; return its exit status, None where time ran out, and what it complained."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, said = process.communicate(timeout=seconds)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[1]


def write(arguments: argparse.Namespace, record: dict) -> None:
    """Append one record, and show the most of it."""
    record = {**record, "tiny": arguments.tiny}
    with arguments.output.open("a") as file:
        file.write(json.dumps(record) + "\n")
    shown = {name: value for name, value in record.items() if name not in ("setting", "tiny", "part", "case")}
    print(f"{record['part']:9} {record['case']:34} {json.dumps(shown)[:400]}", flush=True)


def main() -> None:
    """Run every part, most telling first."""
    arguments = parse_arguments()
    if arguments.child:
        sys.path.insert(0, str(HERE))
        from gpu_parts.running import run_cases

        sys.exit(run_cases(arguments, lambda record: write(arguments, record)))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for part in arguments.parts:
        left = arguments.budget - (time.monotonic() - begin)
        if left < 10:
            print(f"{part:9} left for another run: {left:.0f} s of {arguments.budget:.0f} are left")
            continue
        run_part(arguments, part, min(left, SECONDS[part] * (4 if arguments.tiny else 1)))
    print(f"{time.monotonic() - begin:.0f} s; records in {arguments.output}")


if __name__ == "__main__":
    main()
