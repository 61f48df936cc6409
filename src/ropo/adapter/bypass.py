"""Notice a weight that a model reads past its adapter, which would then act in nothing.

Some code takes `layer.weight` for a kernel of its own instead of calling the layer: `nn.MultiheadAttention`, the fused
path of `nn.TransformerEncoderLayer`, Mamba's kernels, projections fused by hand. Reading alone is no fault: T5 looks at
a weight's dtype and then calls its layer. So what is looked for is a layer whose weight was read while its model ran,
and that was not called.
"""

from __future__ import annotations

__all__ = ()

import threading
from typing import Any

import torch
from torch import nn

from ropo.core.errors import UserError


class _Running(threading.local):
    """The calls of adapted models that go on in a thread, and what these did with its layers."""

    def __init__(self) -> None:
        self.depth = 0
        self.read: set[nn.Module] = set()
        self.called: set[nn.Module] = set()


_running = _Running()


def watch(model: nn.Module) -> None:
    """Look for bypassed layers at each call of a model; idempotent."""
    if _begin not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin)
        model.register_forward_hook(_end, always_call=True)


def forget(model: nn.Module) -> None:
    """Take back `watch`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (_begin, _end)]:
            del hooks[key]


def note_read(layer: nn.Module) -> None:
    """Remember that the weight of an adapted layer was read."""
    if not torch.compiler.is_compiling() and _running.depth:
        _running.read.add(layer)


def note_call(layer: nn.Module) -> None:
    """Remember that an adapted layer was called."""
    if not torch.compiler.is_compiling() and _running.depth:
        _running.called.add(layer)


def _begin(model: nn.Module, args: Any) -> None:
    if not torch.compiler.is_compiling():
        _running.depth += 1


def _end(model: nn.Module, args: Any, output: Any) -> None:
    if torch.compiler.is_compiling():
        return
    _running.depth = max(_running.depth - 1, 0)
    if _running.depth:  # a part of a larger model: the rest may still call the layer
        return
    bypassed = _running.read - _running.called
    _running.read.clear()
    _running.called.clear()
    for name, module in model.named_modules() if bypassed else ():
        if module in bypassed:
            parent = model.get_submodule(name.rpartition(".")[0])
            raise UserError(
                f"target_modules: {name} was not called, but its weight was read past the adapter by "
                f"{type(parent).__name__} or a kernel of its own; its adapter would act in nothing, so leave it out "
                "(exclude_modules), or switch that kernel off"
            )
