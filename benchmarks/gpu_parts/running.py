"""Run the cases of one part, in a process of its own."""

from __future__ import annotations

import argparse
import gc
import os
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

DEVICE_LOST = 3


def run_cases(arguments: argparse.Namespace, write: Callable[[dict[str, Any]], None]) -> int:
    """Run a part's cases while there is time, and write a record for each.

    Returns:
        The process's exit status: 0, or `DEVICE_LOST` where the GPU answers no more after an error.
    """
    begin = time.monotonic()
    if arguments.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if arguments.child == "kernels":
            os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from gpu_parts import machine

    setting: dict[str, Any] | None = None
    cases = import_module(f"gpu_parts.{arguments.child}").cases(arguments.tiny)
    for name, case in cases.items():
        if name in arguments.leave_out or time.monotonic() - begin > arguments.budget:
            continue
        started = time.monotonic()
        try:
            setting = setting or machine.setting()
            with warnings.catch_warnings(record=True) as heard:
                warnings.filterwarnings("always", category=UserWarning)
                found = case()
            if said := sorted({str(each.message)[:500] for each in heard if "slower" in str(each.message)}):
                found = {**found, "warnings": said}  # ours: a kernel that is not used
        except Exception as error:
            last = "".join(traceback.format_tb(error.__traceback__)[-3:])
            found = {"error": f"{type(error).__name__}: {error}"[:2000], "where": last}
        write(
            {
                "part": arguments.child,
                "case": name,
                "seconds": round(time.monotonic() - started, 2),
                **found,
                "setting": setting,
            }
        )
        gc.collect()
        if not machine.answers():
            return DEVICE_LOST
    write({"part": arguments.child, "case": "(all)", "cases": list(cases)})
    return 0
