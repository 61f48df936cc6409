"""Find the linear layers of a model and read the weight that each one acts with, one layer at a time."""

from __future__ import annotations

__all__ = ["layer_weight", "linear_layers"]

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ropo.core.errors import UserError


@runtime_checkable
class _Factor(Protocol):
    """A rotation, such as those of `ropo.ops`."""

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R for rows x."""
        ...


@runtime_checkable
class FactorProduct(_Factor, Protocol):
    """A product of rotations of R^dim."""

    dim: int
    factors: Sequence[_Factor]


@runtime_checkable
class _Rotating(Protocol):
    """What an adapter's module on one layer offers when it rotates, so that its rotation can be measured."""

    rotates: bool

    def rotation(self) -> FactorProduct:
        """Return the rotation factor by factor, in float64."""
        ...


@dataclass(frozen=True)
class LayerPair:
    """Name one linear layer, with the module to measure and the module that it is compared with."""

    name: str
    module: nn.Module
    reference: nn.Module | None


def linear_layers(model: PreTrainedModel | PeftModel) -> dict[str, nn.Module]:
    """Return the linear layers of a model, the output embedding left out; an adapted layer comes with its adapters.

    Experts that transformers fuses into one three-dimensional parameter are no linear layers and are not returned.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in base.named_modules():
        if module is base.get_output_embeddings() or name.startswith(inside):
            continue
        if isinstance(_base_layer_of(module), nn.Embedding):  # LoRA on words, or trained tokens
            continue
        if isinstance(module, (BaseTunerLayer, Conv1D)) or (
            hasattr(module, "in_features") and hasattr(module, "out_features")
        ):
            found[name] = module
            inside = (f"{name}.",)  # named_modules goes depth first, so only the latest layer's inside follows
    return found


def pair_layers(model: PreTrainedModel | PeftModel, reference: PreTrainedModel | None) -> list[LayerPair]:
    """Pair every layer to be measured with its reference.

    Args:
        model: A plain model, of which all linear layers are measured, or one with adapters, of which the adapted ones
            are: no other layer's weight can have changed.
        reference: The model to compare with; None compares an adapted layer with its own base layer, and a plain
            layer with nothing.

    Returns:
        The pairs in the model's order.

    Raises:
        UserError: If there is no linear layer, or the reference has another architecture.
    """
    layers = linear_layers(model)
    if isinstance(model, PeftModel):
        layers = {name: module for name, module in layers.items() if isinstance(module, BaseTunerLayer)}
    if not layers:
        raise UserError("model: has no linear layer to measure; give a causal language model or an adapter on one")
    if reference is None:
        return [LayerPair(name, module, _base_layer_of(module)) for name, module in layers.items()]
    others = linear_layers(reference)
    for name, module in layers.items():
        shape, other = linear_shape(module), linear_shape(others[name]) if name in others else None
        if shape != other:
            raise UserError(
                f"reference: must have the model's architecture, but its {name} is {_words(other)} where the model's "
                f"is {_words(shape)}; give the model that training started from"
            )
    return [LayerPair(name, module, others[name]) for name, module in layers.items()]


def _base_layer_of(module: nn.Module) -> nn.Module | None:
    """Return the frozen layer under an adapter; None for a plain layer."""
    return BaseTunerLayer.get_base_layer(module) if isinstance(module, BaseTunerLayer) else None


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return (neurons, inputs) of a linear layer, with or without adapters."""
    layer = _base_layer_of(module) or module
    if isinstance(layer, Conv1D):
        return layer.nf, layer.nx
    return int(layer.out_features), int(layer.in_features)  # type: ignore[arg-type]


@torch.no_grad()
def layer_weight(module: nn.Module) -> Float[Tensor, "n d"]:
    """Return the weight that a layer acts with, adapters and quantisation included; rows are neurons.

    A linear map is known by what it does to the identity, which holds for every adapter and every quantised layer
    without merging: W_j = f(e_j) - f(0). It is computed on a float32 copy of this one layer, so an adapter's change is
    not rounded to a bfloat16 base; a merged checkpoint in bfloat16 would be.

    Args:
        module: A linear layer, plain, quantised or adapted.

    Returns:
        The weight, in the plain layer's own dtype, or float32.

    Cost: nothing for a plain layer; else a copy of the layer and one product with the d x d identity.
    """
    if type(module) is nn.Linear:
        return module.weight.detach()
    if type(module) is Conv1D:
        return module.weight.detach().T
    layer = copy.deepcopy(module).float().eval()
    inputs = linear_shape(module)[1]
    identity = torch.eye(inputs, device=next(layer.parameters()).device)
    with torch.autocast(identity.device.type, enabled=False):
        return (layer(identity) - layer(identity.new_zeros(1, inputs))).T.contiguous()


def rotations_of(module: nn.Module) -> Iterator[tuple[str, FactorProduct]]:
    """Yield the rotations of a layer's active adapters, by adapter name."""
    if not isinstance(module, BaseTunerLayer):
        return
    for name, part in module.named_modules():
        adapter = name.rpartition(".")[2]
        if adapter in module.active_adapters and isinstance(part, _Rotating) and part.rotates:
            yield adapter, part.rotation()


def _words(shape: tuple[int, int] | None) -> str:
    return "missing" if shape is None else f"{shape[0]} x {shape[1]}"
