"""Put RoPO layers into a model."""

from __future__ import annotations

__all__ = ()

import re
import warnings
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

import torch
from peft import NoMatchingPeftModuleError
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from ropo.adapter import bypass
from ropo.adapter.config import RopoConfig
from ropo.adapter.layer import RopoLinear
from ropo.adapter.sharing import build_alone, build_together
from ropo.core.errors import UserError
from ropo.lm.adapter_values import check_values
from ropo.lm.strength import check_strength, check_whole

_QUERY_AND_VALUE = ["q_proj", "v_proj"]
_LANGUAGE_TOWER = "language_model"  # as transformers calls it in every model of several towers
# PEFT adapts phi's MLP as well; the method is about queries and values. A view: what PEFT's mapping gains is seen.
_DEFAULT_TARGETS: ChainMap[str, Any] = ChainMap(
    {"phi": _QUERY_AND_VALUE}, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
)
_FUSED = ["qkv_proj", "query_key_value", "c_attn", "Wqkv"]  # one layer that holds queries, keys and values


class _NoSuchLayerError(UserError, NoMatchingPeftModuleError):
    """Report targets that the model does not have: PEFT's own type, for who waits for that, in our words."""


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
    target_module_mapping: Any = _DEFAULT_TARGETS

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
            _leave_out_other_towers(peft_config, self.model)
        else:
            _check_names(peft_config, self.model)
        return peft_config

    def _default_targets(self, model_type: str) -> Any:
        targets = self.target_module_mapping.get(model_type)
        if targets is not None:
            return targets if isinstance(targets, str) else set(targets)
        names = {name.rpartition(".")[2] for name in _linear_names(self.model)}
        if names.issuperset(_QUERY_AND_VALUE):
            return set(_QUERY_AND_VALUE)
        if fused := names & set(_FUSED):
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
            raise _NoSuchLayerError(f"target_modules: {error}") from error

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Look at every layer that will be adapted before the first one is."""
        targets = peft_config.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            for name in _linear_names(model):
                self._check_target_module_compatiblity(peft_config, model, name.rpartition(".")[2])
            _leave_out_bypassed(peft_config, model)
        else:
            self._check_targets(peft_config, model)
        build_together(model)
        bypass.watch(model)
        _keep_differentiable(model)

    def _check_targets(self, config: Any, model: nn.Module) -> None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        bypassed = _read_by_attention(model)
        for name, module in _layers_of(model):
            if self._check_target_module_exists(config, name):
                _check_layer(name, _base_of(module), _base_of(head))
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


def _leave_out_other_towers(config: RopoConfig, model: nn.Module) -> None:
    """Leave a vision or audio tower as it is by default: text pairs would give its adapters no gradient."""
    names = {name for name in _linear_names(model) if name.rpartition(".")[2] in (config.target_modules or ())}
    others = {name for name in names if _LANGUAGE_TOWER not in name.split(".")}
    if others and others != names and not isinstance(config.exclude_modules, str):
        config.exclude_modules = set(config.exclude_modules or ()) | others  # type: ignore[assignment]


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


def _leave_out_bypassed(config: RopoConfig, model: nn.Module) -> None:
    """Leave out, of all linear layers, those whose weights their owner reads past any adapter, and say so."""
    bypassed = _read_by_attention(model)
    if bypassed and isinstance(config.exclude_modules, str):
        config.exclude_modules = "|".join([f"(?:{config.exclude_modules})", *map(re.escape, sorted(bypassed))])
    elif bypassed:
        config.exclude_modules = set(config.exclude_modules or ()) | bypassed  # type: ignore[assignment]
    if bypassed:
        warnings.warn(
            f"target_modules: {', '.join(sorted(bypassed))} not adapted: nn.MultiheadAttention reads such weights past "
            "an adapter",
            stacklevel=2,
        )


def _read_by_attention(model: nn.Module) -> set[str]:
    """Return the linear layers that are parts of an `nn.MultiheadAttention`, whose weights it hands to a function."""
    owners = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return {f"{name}.out_proj".removeprefix(".") for name in owners}


def _is_narrow(layer: nn.Module) -> bool:
    weight: Any = getattr(layer, "weight", None)
    return weight is not None and weight.dtype in (torch.bfloat16, torch.float16)


def _base_of(module: nn.Module | None) -> nn.Module | None:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return a model's modules by name, but nothing that lies inside an adapted layer."""
    adapted: list[str] = []
    for name, module in model.named_modules():
        if not name.startswith(tuple(adapted)):
            yield name, module
            if isinstance(module, BaseTunerLayer):
                adapted.append(f"{name}.")


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in _layers_of(model) if isinstance(_base_of(module), nn.Linear | Conv1D)]


def _check_names(config: RopoConfig, model: nn.Module) -> None:
    """Refuse a target that no module bears: PEFT would pass over it as long as another one matches."""
    targets: Any = config.target_modules
    if isinstance(targets, str):
        return
    names = _linear_names(model)
    for target in sorted(targets):
        if not any(name == target or name.endswith(f".{target}") for name, _ in _layers_of(model)):
            leaves = sorted({name.rpartition(".")[2] for name in names})
            near = get_close_matches(target, leaves, n=3) or leaves[:8]
            raise _NoSuchLayerError(
                f"target_modules: the model has no module {target!r}; did you mean {', '.join(near)}?"
            )


def _check_layer(name: str, layer: nn.Module | None, head: nn.Module | None) -> None:
    if layer is head and head is not None:
        raise UserError(
            f"target_modules: {name} is the output head, which is read past the adapter when log-probs are computed; "
            "leave it out (exclude_modules)"
        )
    if not isinstance(layer, nn.Linear | Conv1D) and (layer is None or resolve_quantization_backend(layer) is None):
        raise UserError(
            f"target_modules: {name} is a {type(layer).__name__}; RoPO adapts nn.Linear and Conv1D layers; "
            "name linear layers inside it, or those of the attention (fused experts and embeddings cannot be adapted)"
        )
