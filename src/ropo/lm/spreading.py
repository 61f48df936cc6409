"""Load a model once for several processes: the first reads it, the others get room for it that takes no memory.

A process that is to hold a part of the weights has no use for the rest. Untouched memory that is only reserved costs
nothing on Linux, so the others' tensors are empty rather than on the meta device: adapters and optimizers are built on
them as on any. What is cut over processes is then filled by `spread`, tensor by tensor, from the first process.
"""

from __future__ import annotations

__all__ = ["is_spread", "read_once", "spread", "weights_of"]

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import GenerationConfig

from ropo.lm.loading import load_shapes

_MARK = "_only_the_first_has_weights"


def read_once(
    source: str, load: Callable[[], Any], by_the_first: Callable[[Callable[[], Any]], Any], trust_remote_code: bool
) -> Any:
    """Load a model in the first process, and make one of the same shapes and types in the others; all call it.

    Args:
        source: As in `ropo.lm.loading.load_model`; no `.gguf` file, and no adapter.
        load: What loads it.
        by_the_first: What lets the first process do something and gives its result, or its error, to all.
        trust_remote_code: As in `load_model`.

    Returns:
        The model, marked so that `is_spread` knows it.

    Cost: one read of the files in all.
    """
    loaded: list[Any] = []

    def read() -> tuple[torch.dtype, dict[str, tuple[torch.Size, torch.dtype]]]:
        loaded.append(load())
        return loaded[0].dtype, {name: (each.shape, each.dtype) for name, each in _tensors(loaded[0])}

    dtype, described = by_the_first(read)
    model = loaded[0] if loaded else _empty(source, dtype, described, trust_remote_code)
    setattr(model, _MARK, True)
    return model


def is_spread(model: Any) -> bool:
    """Tell whether the first process alone has a model's weights, or had them before they were cut."""
    return bool(getattr(model, _MARK, False))


def _empty(source: str, dtype: torch.dtype, described: dict[str, Any], trust_remote_code: bool) -> Any:
    model = load_shapes(source, dtype, trust_remote_code).to_empty(device="cpu")
    model.tie_weights()
    found = dict(_tensors(model))
    if {name: each.shape for name, each in found.items()} != {name: shape for name, (shape, _) in described.items()}:
        raise RuntimeError(f"model {source}: has other tensors when it is made of its configuration than as it is read")
    for name, (shape, kept) in described.items():
        if found[name].dtype != kept:
            found[name].data = torch.empty(shape, dtype=kept)
    model.config._name_or_path = model.name_or_path = source
    with suppress(OSError):  # many have none
        model.generation_config = GenerationConfig.from_pretrained(source)
    return model.eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model before it is cut, for `spread`; in the first process, which alone has them."""
    if not is_spread(model) or torch.distributed.get_rank():
        return {}
    return {name: each.data for name, each in _tensors(model)}


@torch.no_grad()
def spread(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Give every process its part of what the first one read; all call it once the model is cut.

    Args:
        model: What FSDP2 has cut, or nothing has.
        before: From `weights_of`, used up; where it was cut by someone who sends it himself, nothing.

    Cost: one message a tensor, and the first process's copy of one on its device.
    """
    for name, each in _tensors(model):
        if isinstance(each, DTensor):
            plain = name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
            whole = before.pop(plain, None)
            given = torch.empty(each.shape, dtype=each.dtype) if whole is None else whole.to(each.dtype)
            part = distribute_tensor(given.to(each.device), each.device_mesh, each.placements, src_data_rank=0)
            each.to_local().copy_(part.to_local())
        elif not hasattr(each, "ds_id"):  # ZeRO-3 has sent its own
            torch.distributed.broadcast(each.data, 0)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
