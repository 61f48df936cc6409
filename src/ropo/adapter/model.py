"""Put RoPO layers into a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from ropo.adapter.config import RopoConfig
from ropo.adapter.layer import RopoLayer
from ropo.adapter.sharing import build_alone, build_together
from ropo.core.errors import UserError
from ropo.lm.adapter_values import check_values

QUERY_AND_VALUE = ["q_proj", "v_proj"]
LANGUAGE_TOWER = "language_model"  # as transformers calls it in every model of several towers
FUSED = ["qkv_proj", "query_key_value", "c_attn", "Wqkv"]  # one layer that holds queries, keys and values


class RopoModel(BaseTuner):
    """Adapt a model's linear layers with rotations; `peft.get_peft_model` makes one for a `RopoConfig`.

    Args:
        model: The model to adapt, changed in place.
        config: A `RopoConfig`, or one for each adapter name.
        adapter_name: Name of the first adapter.
        low_cpu_mem_usage: Leave the parameters on the meta device until weights are loaded.
    """

    prefix: str = "ropo_"
    tuner_layer_cls = RopoLayer
    # PEFT adapts phi's MLP as well; the method is about queries and values.
    target_module_mapping: Any = MappingProxyType(
        {**TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "phi": QUERY_AND_VALUE}
    )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the adapted model, hooks included, which PEFT would go past."""
        return self.model(*args, **kwargs)

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
        if names.issuperset(QUERY_AND_VALUE):
            return set(QUERY_AND_VALUE)
        if fused := names & set(FUSED):
            return fused
        raise UserError(
            f"target_modules: no default is known for a model of type {model_type!r}; "
            f"give some of its linear layers: {', '.join(sorted(names)[:12])}"
        )

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Look at every layer that will be adapted before the first one is."""
        build_together(model)
        _keep_differentiable(model)
        if peft_config.target_modules == "all-linear":
            return
        head = getattr(model, "get_output_embeddings", lambda: None)()
        for name, module in model.named_modules():
            if ".ropo_parameters" in name or name.endswith(".base_layer"):
                continue
            if self._check_target_module_exists(peft_config, name):
                _check_layer(name, _base_of(module), _base_of(head))

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
        if isinstance(target, RopoLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = RopoLayer(target, adapter_name, peft_config, **get_quantization_kwargs(self.model))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # one more adapter: not trained until it is activated
        self._replace_module(parent, target_name, layer, target)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Merge as PEFT does, and say what quantised weights lost by it."""
        super().merge_adapter(*args, **kwargs)
        _warn_of_rounding(self.model)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        build_alone(self.model)
        layers = [module for module in self.model.modules() if isinstance(module, RopoLayer)]
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
    others = {name for name in names if LANGUAGE_TOWER not in name.split(".")}
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
    losses = {module: module.rounding for module in model.modules() if isinstance(module, RopoLayer)}
    known = [loss for loss in losses.values() if loss is not None]
    if known:
        kind = next(module.quantization_backend.backend_name for module in losses if module.quantization_backend)
        warnings.warn(
            f"merged into {kind} weights: quantising them again put them {sum(known) / len(known):.2%} off on average, "
            f"{max(known):.2%} at worst (relative Frobenius norm); for exact weights merge into the unquantised model",
            stacklevel=3,
        )


def _base_of(module: nn.Module | None) -> nn.Module | None:
    return module.get_base_layer() if isinstance(module, RopoLayer) else module


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D | RopoLayer)]


def _check_names(config: RopoConfig, model: nn.Module) -> None:
    """Refuse a target that no module bears: PEFT would pass over it as long as another one matches."""
    targets: Any = config.target_modules
    if isinstance(targets, str):
        return
    names = _linear_names(model)
    for target in sorted(targets):
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            leaves = sorted({name.rpartition(".")[2] for name in names})
            near = get_close_matches(target, leaves, n=3) or leaves[:8]
            raise UserError(f"target_modules: the model has no module {target!r}; did you mean {', '.join(near)}?")


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
