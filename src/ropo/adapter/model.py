"""Put RoPO layers into a model."""

from __future__ import annotations

__all__ = ()

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from types import SimpleNamespace
from typing import Any

import torch
from peft import NoMatchingPeftModuleError
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import (
    get_quantization_kwargs,
)
from torch import nn

from ropo.adapter import bypass
from ropo.adapter.layer import RopoLinear
from ropo.adapter.sharing import build_alone, build_together
from ropo.adapter.targets import (
    DEFAULT_TARGETS,
    FUSED,
    QUERY_AND_VALUE,
    NoSuchLayerError,
    base_of,
    check_layer,
    check_target_names,
    layers_of,
    leave_out_bypassed,
    leave_out_other_towers,
    linear_names,
    read_by_attention,
)
from ropo.core.errors import UserError
from ropo.lm.checkpoint_checks import check_values
from ropo.lm.strength import check_strength, check_whole


class RopoModel(BaseTuner):
    """Adapt a model's linear layers with rotations; `peft.get_peft_model` makes one for a `RopoConfig`.

    Args:
        model: The model to adapt, changed in place.
        config: A `RopoConfig`, or one for each adapter name.
        adapter_name: Name of the first adapter.
        low_cpu_mem_usage: Leave the parameters on the meta device until weights are loaded.
    """

    prefix: str = "ropo_"
    tuner_layer_cls = RopoLinear
    target_module_mapping: Any = DEFAULT_TARGETS

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the adapted model, hooks included, which PEFT would go past."""
        return self.model(*args, **kwargs)

    def set_strength(self, strength: float, adapter_name: str | None = None) -> None:
        """Turn adapters part of their way: angles, the turns of reflections and log-magnitudes times a strength.

        0 is the base model, 1 the adapter as trained, 0.5 half way between them; the weights stay rotated and stretched
        ones at any strength, so their hyperspherical energy stays what it was. The parameters are not touched: the
        strength is saved beside them, in adapter_config.json, and can be turned back.

        Args:
            strength: Within 0 .. 2.
            adapter_name: The adapter; None for the active ones.

        Raises:
            UserError: If the strength is not within these, there is no such adapter, it is merged, or it brings modules
                that were trained in full.
        """
        strength = check_strength(strength)
        names = self.active_adapters if adapter_name is None else [adapter_name]
        layers = [module for module in self.model.modules() if isinstance(module, RopoLinear)]
        for name in names:
            if name not in self.peft_config:
                raise UserError(f"strength: there is no adapter {name!r}; there are {', '.join(self.peft_config)}")
            if any(name in layer.merged_adapters for layer in layers):
                raise UserError(f"strength: adapter {name!r} is merged into the weights; call unmerge_adapter() first")
            if strength != 1:
                check_whole(self.peft_config[name])
        for name in names:
            config: Any = copy(self.peft_config[name])  # which another adapter may have been made from, too
            config.strength = strength
            self.peft_config[name] = config
            for layer in layers:
                if name in layer.ropo_parameters:
                    layer.ropo_parameters[name].strength = strength  # type: ignore[assignment]

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            peft_config.target_modules = self._default_targets(str(model_config.get("model_type")))
            leave_out_other_towers(peft_config, self.model)
        else:
            check_target_names(peft_config, self.model)
        return peft_config

    def _default_targets(self, model_type: str) -> Any:
        targets = self.target_module_mapping.get(model_type)
        if targets is not None:
            return targets if isinstance(targets, str) else set(targets)
        names = {name.rpartition(".")[2] for name in linear_names(self.model)}
        if names.issuperset(QUERY_AND_VALUE):
            return set(QUERY_AND_VALUE)
        if fused := names & set(FUSED):
            return fused
        raise UserError(
            f"target_modules: no default is known for a model of type {model_type!r}. Please specify `target_modules`; "
            f"give some of its linear layers: {', '.join(sorted(names)[:12])}"
        )

    def inject_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Adapt the model as PEFT does; a user who named layers that are not there is told as one."""
        try:
            super().inject_adapter(*args, **kwargs)
        except NoMatchingPeftModuleError as error:
            if isinstance(error, UserError):
                raise
            raise NoSuchLayerError(f"target_modules: {error}") from error

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Look at every layer that will be adapted before the first one is."""
        targets = peft_config.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            for name in linear_names(model):
                self._check_target_module_compatiblity(peft_config, model, name.rpartition(".")[2])
            leave_out_bypassed(peft_config, model)
        else:
            self._check_targets(peft_config, model)
        build_together(model)
        bypass.watch(model)
        _keep_differentiable(model)

    def _check_targets(self, config: Any, model: nn.Module) -> None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        bypassed = read_by_attention(model)
        for name, module in layers_of(model):
            if self._check_target_module_exists(config, name):
                check_layer(name, base_of(module), base_of(head))
                self._check_target_module_compatiblity(config, model, name.rpartition(".")[2])
                if name in bypassed:
                    raise UserError(
                        f"target_modules: {name} belongs to an nn.MultiheadAttention, which reads its weight past the "
                        "adapter; leave it out (exclude_modules)"
                    )

    def _check_target_module_compatiblity(self, peft_config: Any, model: nn.Module, target_name: str) -> None:
        """Refuse what PEFT refuses for LoRA: Mamba's kernels read some weights past any adapter."""
        try:
            super()._check_target_module_compatiblity(SimpleNamespace(peft_type="LORA"), model, target_name)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(
                f"target_modules: {target_name} is read past the adapter by the kernels of "
                f"{model.config.model_type!r} models; leave it out (exclude_modules)"  # type: ignore[union-attr]
            ) from error

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Keep float32 whatever is asked for, and say so where PEFT would have narrowed."""
        layers = (module for module in self.model.modules() if isinstance(module, RopoLinear))
        if not autocast_adapter_dtype and any(_is_narrow(each.get_base_layer()) for each in layers):
            warnings.warn(
                "autocast_adapter_dtype=False: RoPO's angles and magnitudes stay float32 all the same, since bfloat16 "
                "and float16 would swallow their updates",
                stacklevel=2,
            )
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, RopoLinear):
            target.update_layer(adapter_name, peft_config)
            return
        layer = RopoLinear(target, adapter_name, peft_config, **get_quantization_kwargs(self.model))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # one more adapter: not trained until it is activated
        self._replace_module(parent, target_name, layer, target)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Merge as PEFT does, and say what quantised weights lost by it."""
        super().merge_adapter(*args, **kwargs)
        _warn_of_rounding(self.model)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        build_alone(self.model)
        bypass.forget(self.model)
        layers = [module for module in self.model.modules() if isinstance(module, RopoLinear)]
        plain = super()._unload_and_optionally_merge(merge, *args, **kwargs)
        if merge:
            _warn_of_rounding(nn.ModuleList(layers))
        return plain

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model: Any, config: Any, adapter_name: str, state_dict: Any) -> Any:
        """Look at the values before PEFT puts any into the model."""
        check_values(state_dict, config.source or repr(adapter_name))
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names: RoPO adapters cannot be mixed within a batch; activate one with set_adapter(name) "
                "and run a batch for each"
            )
        yield


def _keep_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes and gptqmodel from packing 4-bit weights for a CPU at the first evaluation.

    A packed weight lets no gradient through. bitsandbytes' can be put back, though PEFT dequantises it to other numbers
    until then; gptqmodel throws the weight away that it has packed.
    """
    for name, module in model.named_modules():
        if hasattr(module, "linear_mode"):  # gptqmodel's; None until the first call decides
            if module.linear_mode == "inference":
                raise UserError(
                    f"model: {name} has packed its weight for inference at its first evaluation, and lets no gradient "
                    "through any more; load the model again, and put the adapter on first"
                )
            setattr(module, "linear_mode", "train")  # noqa: B010
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.state_dict()  # which puts back a weight that is packed already
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def _warn_of_rounding(model: nn.Module) -> None:
    """Say once for the whole model how far quantised weights are from what was to be written."""
    losses = {module: module.rounding for module in model.modules() if isinstance(module, RopoLinear)}
    known = [loss for loss in losses.values() if loss is not None]
    if known:
        kind = next(module.quantization_backend.backend_name for module in losses if module.quantization_backend)
        warnings.warn(
            f"merged into {kind} weights: quantising them again put them {sum(known) / len(known):.2%} off on average, "
            f"{max(known):.2%} at worst (relative Frobenius norm); for exact weights merge into the unquantised model",
            stacklevel=3,
        )


def _is_narrow(layer: nn.Module) -> bool:
    weight: Any = getattr(layer, "weight", None)
    return weight is not None and weight.dtype in (torch.bfloat16, torch.float16)
