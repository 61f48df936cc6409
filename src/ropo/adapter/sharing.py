"""Give all layers their rotations at once, for each call of the model: those of one width are built together."""

from __future__ import annotations

__all__ = ()

from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ropo.adapter.layer import RopoLinear
from ropo.adapter.parameters import RopoParameters
from ropo.ops import rotations_of_layers

# Who holds a rotation during a call: a call without any, as each token in generation is, looks for none afterwards.
_sharing: WeakKeyDictionary[nn.Module, list[RopoParameters]] = WeakKeyDictionary()


def build_together(model: nn.Module) -> None:
    """Make a model build the blocks of all active adapters together whenever it is called; idempotent.

    Building costs some sixty operations on small tensors, and their number does not grow with the layers. Where a layer
    is called without the model (a part of the model by itself, a checkpointed layer computed again) it builds its own.
    Where kernels turn plane by plane, nothing is built: layers get the parameters themselves.
    """
    if _share_rotations not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_share_rotations)
        model.register_forward_hook(_forget_rotations, always_call=True)


def build_alone(model: nn.Module) -> None:
    """Take back `build_together`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (_share_rotations, _forget_rotations)]:
            del hooks[key]


def _share_rotations(model: nn.Module, args: Any) -> None:
    # Without gradients the layers' caches serve better, and a compiler sees through single builds more easily.
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    groups: defaultdict[Any, list[RopoParameters]] = defaultdict(list)
    for parameters in _acting(model):
        parameters.keep_float32()
        if parameters.rotates and all(_is_plain(part) for part in parameters.parameters(recurse=False)):
            groups[_kind(parameters)].append(parameters)
    for group in groups.values():
        _sharing.setdefault(model, []).extend(group)
        _share(group)


def _forget_rotations(model: nn.Module, args: Any, output: Any) -> None:
    if torch.compiler.is_compiling():
        return
    for parameters in _sharing.pop(model, ()):
        parameters.shared = None


def _acting(model: nn.Module) -> Iterator[RopoParameters]:
    for module in model.modules():
        if isinstance(module, RopoLinear):
            yield from module.acting_parameters()


def _share(group: list[RopoParameters]) -> None:
    rotations = rotations_of_layers(group[0].in_features, [each.pair for each in group])
    for parameters, rotation in zip(group, rotations, strict=True):
        parameters.shared = rotation, parameters.log_scale


def _kind(parameters: RopoParameters) -> tuple[Any, ...]:
    """Return what layers must have in common to be built together."""
    parts = (parameters.givens, parameters.reflections)
    return tuple(None if part is None else (part.shape, part.dtype, part.device) for part in parts)


def _is_plain(part: Tensor) -> bool:
    """Tell whether the numbers are all here and stay: sharded parameters are gathered while their own layer runs.

    After an evaluation ZeRO-3 may keep some that it cuts before the next backward pass.
    """
    cut_by_deepspeed = hasattr(part, "ds_id") and not getattr(part, "ds_persist", False)
    return type(part) is nn.Parameter and part.numel() > 0 and not part.is_meta and not cut_by_deepspeed
