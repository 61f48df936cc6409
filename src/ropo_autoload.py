"""Register RoPO's adapter with PEFT once a program imports PEFT, without a line about ropo in the program.

PyTorch calls `at_torch_import` at the end of `import torch` (it is an entry point of the group `torch.backends`), and
`import ropo` calls `when_peft_comes`. Both only put a finder first in `sys.meta_path`, which waits for PEFT; programs
that know nothing of ropo, such as lm_eval, then read its adapters. It lies beside the package, since it must be cheap
and must not import the package where `ROPO_NO_AUTOLOAD` is set.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any

OFF = "ROPO_NO_AUTOLOAD"
"""Environment variable that keeps `import torch` from setting anything up; `import ropo` still registers."""


def at_torch_import() -> None:
    """Wait for PEFT, unless the environment says not to. Cost: see docs/performance.md."""
    if os.environ.get(OFF, "0") in ("", "0"):
        when_peft_comes()


def when_peft_comes() -> None:
    """Register the adapter now if PEFT is here, else as soon as it is; idempotent."""
    peft = sys.modules.get("peft")
    if peft is None:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    elif getattr(peft.__spec__, "_initializing", False):
        _watch(peft.__spec__)  # PEFT itself is importing PyTorch just now, and has not all its names yet
    else:
        _register()


def _register() -> None:
    """Import the adapter, which registers itself; a program that never asked for it must not fail by it."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    try:
        import_module("ropo.adapter")
    except Exception as error:
        import warnings

        warnings.warn(f"RoPO's adapter could not be registered with PEFT: {error!r}", stacklevel=2)


class _Finder:
    """Let the other finders find PEFT, and watch it; who only asks where it is changes nothing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "peft":
            return None
        others = (each for each in sys.meta_path if each is not self and hasattr(each, "find_spec"))
        spec = next((found for each in others if (found := each.find_spec(name, path, target)) is not None), None)
        _watch(spec)
        return spec


def _watch(spec: ModuleSpec | None) -> None:
    if type(spec) is ModuleSpec:
        spec.__class__ = _WatchedSpec


class _WatchedSpec(ModuleSpec):
    """What Python knows of a module that it is to import, and tells when this is done.

    Python clears `_initializing` as the last thing of an import (importlib._bootstrap). There is no public sign of it:
    a loader can be wrapped before an import, but not while it goes on.
    """

    @property
    def _initializing(self) -> bool:
        return bool(self.__dict__.get("_initializing"))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["_initializing"] = value
        if not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            if self.name in sys.modules:  # else its import failed
                _register()
