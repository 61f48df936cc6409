"""Run a function in several processes that talk to each other (gloo), forked from a server that has imported all."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("ropo.runs.train", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict"),
        *("tests.cli.killing", "tests.training.packing_helpers", "tests.training.together"),
    ]
)


def run_together(
    function: Callable[..., Any], folder: Path, *args: Any, count: int = 2, timeout: float = 240, **environment: str
) -> list[Any]:
    """Call `function(*args)` in `count` processes, and return what each returned."""
    processes = start_together(function, folder, *args, count=count, **environment)
    for process in processes:
        process.join(timeout)
    logs = [(folder / f"log{rank}").read_text() for rank in range(count)]
    assert [process.exitcode for process in processes] == [0] * count, "\n".join(logs)
    return [pickle.loads((folder / f"result{rank}").read_bytes()) for rank in range(count)]


def start_together(
    function: Callable[..., Any], folder: Path, *args: Any, count: int = 2, **environment: str
) -> list[Any]:
    """Start the processes; their output goes to `folder/log0` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1, **environment}
    processes = []
    for rank in range(count):
        variables = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        process = CONTEXT.Process(target=_enter, args=(variables, function, args, str(folder), rank))
        process.start()
        processes.append(process)
    return processes


def _enter(variables: dict[str, str], function: Callable[..., Any], args: Any, folder: str, rank: int) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    log = os.open(f"{folder}/log{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        Path(folder, f"result{rank}").write_bytes(pickle.dumps(function(*args)))
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(status)
