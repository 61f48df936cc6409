"""A frozen linear layer with RoPO adapters around it."""

from __future__ import annotations

__all__ = ()

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ropo.adapter.bypass import note_call, note_read
from ropo.adapter.config import RopoConfig
from ropo.adapter.parameters import RopoParameters
from ropo.core.errors import UserError
from ropo.ops import stretch


class RopoLinear(nn.Module, BaseTunerLayer):
    """Rotate the input of a frozen linear layer and stretch its output.

    z = exp(s) * ((x R) weight^T) + b. A neuron w_j (a row of weight) thus becomes exp(s_j) R w_j: R is shared by all
    neurons and orthogonal, so the angles between them stay what pre-training made them, and merging is
    weight' = diag(exp s) weight R^T. Neither R nor a new weight is formed in training.

    Several active adapters act on the weights in the order in which they were activated; on activations, therefore,
    the last one rotates first. Around another method's adapter, RoPO turns and stretches what that one made.

    Its name follows PEFT's convention, by which "all-linear" finds layers that are adapted already: they have "Linear"
    in the name of their class.

    Args:
        base_layer: `nn.Linear`, transformers' `Conv1D`, a linear layer of a quantisation that PEFT knows, or another
            method's adapter on one of these.
        adapter_name: Name of the first adapter.
        config: Its configuration.
        quantization_options: What PEFT needs to write weights of the model's quantisation.

    Attributes:
        rounding: What the last merge into a quantised weight lost: ||written - wanted|| / ||wanted||, Frobenius norms;
            None where the weight is not quantised.
    """

    adapter_layer_names: tuple[str, ...] = ("ropo_parameters",)
    other_param_names: tuple[str, ...] = ()

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: RopoConfig, **quantization_options: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **quantization_options)
        self.rounding: float | None = None
        self.ropo_parameters = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self.in_features, self.out_features = _linear_shape(self.get_base_layer())
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: RopoConfig) -> None:
        """Add an adapter to this layer."""
        self.ropo_parameters[adapter_name] = RopoParameters(config, self.in_features, self.out_features)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted layer's output for (*batch, d) activations."""
        note_call(self)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        adapters = [parameters.shared or parameters() for parameters in self.acting_parameters()]
        for rotation, _ in reversed(adapters):
            if rotation is not None:
                x = rotation.apply(x)
        base_layer = self.base_layer
        z = base_layer(x, *args, **kwargs)
        log_scales = [log_scale for _, log_scale in adapters if log_scale is not None]
        if not log_scales:
            return z
        bias: Tensor | None = base_layer.bias  # type: ignore[assignment]
        return stretch(z, sum(log_scales[1:], log_scales[0]), bias)

    @property
    def weight(self) -> Tensor:
        """Return the frozen weight, as PEFT does, and remember that someone read it past the adapter."""
        if self.acting_parameters():
            note_read(self)
        return super().weight

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the frozen weight: weight' = diag(exp s) weight R^T.

        A quantised weight is dequantised for that and quantised again; `rounding` then says what this lost. Another
        method's adapter inside is merged first, since the rotation goes around it.

        Args:
            safe_merge: Refuse, leaving the weight as it is, if the result is not finite.
            adapter_names: Adapters to merge, in this order; None for the active ones.

        Raises:
            ValueError: With `safe_merge`, if a merged weight would not be finite.
            UserError: If PEFT cannot write weights of this quantisation.
        """
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise UserError(
                f"merge: {backend.backend_name} weights cannot be written; merge into the unquantised base model"
            )
        inner = self.base_layer
        if isinstance(inner, BaseTunerLayer) and not inner.merged:
            inner.merge(safe_merge=safe_merge)
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.ropo_parameters:
                continue
            merged = self._merged_weight(name)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"adapter {name}: the merged weight is not finite; the adapter seems to be broken")
            self._write_weight(merged)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take all merged adapters out of the weight again, last one first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            self._write_weight(self._unmerged_weight(self.merged_adapters.pop()))

    def acting_parameters(self) -> list[RopoParameters]:
        """Return what the forward pass applies: the active adapters in their order, unless disabled, merged or at 0."""
        named = self.ropo_parameters
        if self.disable_adapters or self.merged:
            return []
        active: list[Any] = [named[name] for name in self.active_adapters if name in named]
        return [parameters for parameters in active if parameters.acts()]

    def _merged_weight(self, adapter_name: str) -> Tensor:
        """Return diag(exp s) weight R^T in float64, (n, d)."""
        parameters = self._parameters_of(adapter_name)
        if parameters.strength == 0:
            return self._neurons()  # the product would round it
        weight = parameters.rotation().apply_transpose(self._neurons()) if parameters.rotates else self._neurons()
        scale = parameters.scale()
        return weight if scale is None else weight * scale.detach().double().unsqueeze(1)

    def _unmerged_weight(self, adapter_name: str) -> Tensor:
        parameters, weight = self._parameters_of(adapter_name), self._neurons()
        if parameters.strength == 0:
            return weight
        scale = parameters.scale()
        if scale is not None:
            weight = weight / scale.detach().double().unsqueeze(1)
        return parameters.rotation().apply(weight) if parameters.rotates else weight

    def _parameters_of(self, adapter_name: str) -> RopoParameters:
        parameters = self.ropo_parameters[adapter_name]
        assert isinstance(parameters, RopoParameters)
        return parameters

    def _neurons(self) -> Tensor:
        """Return the frozen weight in float64, a neuron a row, whatever the layer's own layout."""
        weight = self.get_base_weight().double()
        return weight.T if isinstance(self.get_base_layer(), Conv1D) else weight

    def _write_weight(self, neurons: Tensor) -> None:
        base_layer = self.get_base_layer()
        weight = neurons.T if isinstance(base_layer, Conv1D) else neurons
        self.set_base_weight(weight.to(self.get_base_weight().dtype).contiguous())
        if self.quantization_backend is not None:
            self.rounding = float((self._neurons() - neurons).norm() / neurons.norm())

    def __repr__(self) -> str:
        return "ropo." + super().__repr__()


def _linear_shape(layer: nn.Module) -> tuple[int, int]:
    """Return a linear layer's numbers of inputs and neurons."""
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    return int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
