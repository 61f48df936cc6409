"""Weights that are cut over processes: by FSDP2, where the adapter stays whole on each, and by DeepSpeed.

FSDP2 leaves the adapter alone, which is small. Sharded with the base it would be cast to the dtype of FSDP's mixed
precision, where angles and magnitudes near 1 lose their updates, and each layer would have to build its rotations
alone. Its gradients are averaged here, once a step.
"""

from __future__ import annotations

__all__ = ["cuts_base", "without_deepspeed"]

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from transformers.trainer_utils import load_sharded_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig


def check_sharding(config: PreferenceConfig, fsdp: bool, deepspeed: bool) -> None:
    """Refuse options that cannot be kept where FSDP or DeepSpeed has the weights."""
    plugin: Any = config.deepspeed_plugin
    if plugin is not None and not deepspeed:
        raise UserError(
            "use_cpu: accelerate leaves DeepSpeed out with it; leave it out (docs/distributed.md says how DeepSpeed "
            "runs on a CPU), or leave out the DeepSpeed configuration"
        )
    if config.tokens_per_step is not None and (fsdp or (deepspeed and plugin.zero_stage == 3)):
        raise UserError(
            "tokens_per_step: processes that cut their batches into different numbers of packs would wait for each "
            "other's weights for ever; leave it out with FSDP and ZeRO-3, and lower --per_device_train_batch_size"
        )


def uses_fsdp(config: PreferenceConfig) -> bool:
    """Tell whether a trainer of this configuration is going to ask for FSDP."""
    return bool(config.fsdp_plugin_args) or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


def cuts_base(config: PreferenceConfig) -> bool:
    """Tell whether FSDP or ZeRO-3 is going to cut the model over processes when training begins."""
    plugin: Any = config.deepspeed_plugin
    return config.world_size > 1 and (uses_fsdp(config) or (plugin is not None and plugin.zero_stage == 3))


def check_deepspeed(model: nn.Module, config: PreferenceConfig) -> None:
    """Refuse configurations of DeepSpeed under which what is trained is lost.

    Raises:
        UserError: For half precision with an adapter, and for all weights under ZeRO-3 that cannot be saved.
    """
    plugin: Any = config.deepspeed_plugin
    adapter = is_peft_model(model)
    if adapter and (config.bf16 or config.fp16):
        raise UserError(
            f"{'bf16' if config.bf16 else 'fp16'}: DeepSpeed would round the adapter to it, which swallows small "
            "updates; set it to false (frozen weights may be in bfloat16 all the same), or use FSDP2, which leaves "
            "adapters alone"
        )
    zero: Any = plugin.deepspeed_config.get("zero_optimization", {})
    if not adapter and zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            "stage3_gather_16bit_weights_on_model_save: must be true, or the trained weights cannot be saved as a "
            "model; set it in DeepSpeed's config (zero3_save_16bit_model in accelerate's)"
        )


def check_fsdp(accelerator: Accelerator) -> None:
    """Refuse the kinds of FSDP under which training would not be what it is in one process.

    Raises:
        UserError: For FSDP1, and for weights that only the first process loads.
    """
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError(
            "fsdp_version: must be 2, as FSDP1 wants one dtype for all weights; set it in accelerate's config"
        )
    if plugin.cpu_ram_efficient_loading:
        raise UserError(
            "fsdp_cpu_ram_efficient_loading: must be false, since accelerate's way knows no adapter that stays whole; "
            "set it in accelerate's config (ropo train lets the first process read the model for all by itself)"
        )


def keep_adapters_whole(model: nn.Module, accelerator: Accelerator) -> list[nn.Parameter]:
    """Tell FSDP to leave adapters alone, and make them alike in all processes.

    Args:
        model: The model; without an adapter nothing is done, and every weight is sharded.
        accelerator: With the FSDP that is going to shard it.

    Returns:
        The trained parameters whose gradients `average_gradients` has to average.
    """
    if not is_peft_model(model):
        return []
    modules = list(_adapter_modules(model))
    accelerator.state.fsdp_plugin.ignored_modules = modules
    with torch.no_grad():
        for module in modules:
            module.to(accelerator.device)
            for parameter in module.parameters():
                torch.distributed.broadcast(parameter.data, 0)
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


def _adapter_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that hold an adapter's parameters, the frozen copy that TRL keeps as reference among them."""
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and (all(each.requires_grad for each in module.parameters()) or "ref" in name.split(".")):
            yield module


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes, in one message."""
    kept = list(parameters)
    if not kept:
        return
    for parameter in kept:
        if parameter.grad is None:  # not used in this process's batch
            parameter.grad = torch.zeros_like(parameter)
    gradients: list[Tensor] = [parameter.grad for parameter in kept if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, averaged in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


@contextmanager
def without_deepspeed(config: PreferenceConfig, model: nn.Module | None = None) -> Iterator[None]:
    """Load models, or call one, as if DeepSpeed were off.

    Under ZeRO-3 transformers would cut weights over the processes as it loads them, and TRL's LM head takes all for
    cut. But each process looks at the model first, at its fingerprint and its packed log-probs; DeepSpeed cuts what is
    whole when training begins.

    Args:
        config: The trainer's options.
        model: The model to call; nothing is done for one that is cut.
    """
    plugin: Any = config.deepspeed_plugin
    if plugin is None or (model is not None and is_cut(model)):
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        # transformers' own for `--deepspeed FILE`, accelerate's where its launcher configures
        set_hf_deepspeed_config(getattr(config, "hf_deepspeed_config", None) or plugin.dschf)


def is_cut(model: nn.Module) -> bool:
    """Tell whether DeepSpeed's ZeRO-3 has cut a model's weights."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole_adapter(model: nn.Module) -> dict[str, Tensor]:
    """Return an adapter's parameters by name, the frozen copy that is its reference among them; all processes call it.

    Cost: where ZeRO-3 has cut them, one message a parameter, and copies of all.
    """
    names: dict[str, Tensor] = {}
    names |= {name: each for name, each in model.named_parameters() if each.requires_grad or "ref" in name.split(".")}
    if not is_cut(model):
        return names
    whole = {}
    for name, each in names.items():
        with _gathered([each]):
            whole[name] = each.detach().to("cpu", copy=True)
    return whole


def _is_cut_anywhere(model: nn.Module) -> bool:
    """Tell whether FSDP2 or ZeRO-3 has cut any of a module's weights."""
    return any(isinstance(each, DTensor) for each in model.parameters()) or is_cut(model)


def whole_copy(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer with whole weights, or the layer itself where it has them; all processes call it.

    Cost: one message for each of the layer's weights, and the memory of them.
    """
    if not _is_cut_anywhere(layer):
        return layer
    own = list(layer.parameters())
    with _gathered(own), torch.no_grad():
        whole = {each: each.full_tensor() if isinstance(each, DTensor) else each.detach().clone() for each in own}
    memory: dict[int, Any] = {id(each): nn.Parameter(value, each.requires_grad) for each, value in whole.items()}
    copied = copy.deepcopy(layer, memory)
    for each in copied.modules():  # DeepSpeed's would gather and cut what is whole
        for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks, each._backward_pre_hooks):
            hooks.clear()
    return copied


@contextmanager
def _gathered(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let every process have whole what ZeRO-3 has cut."""
    if not any(hasattr(each, "ds_id") for each in parameters):
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(parameters):
        yield


@contextmanager
def in_step(model: nn.Module) -> Iterator[None]:
    """Let all processes sample the first one's tokens, where each of them computes a part of every forward pass.

    One that picked another token for a rounding's sake might end its answer earlier, and the others would wait for its
    part of the next token for ever.
    """
    if not _is_cut_anywhere(model):
        yield
        return

    def take_the_firsts(module: nn.Module, args: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None and logits.shape[1] == 1:  # the next token's
            torch.distributed.broadcast(logits, 0)

    base: Any = model.get_base_model() if is_peft_model(model) else model  # type: ignore[operator]
    hook = base.register_forward_hook(take_the_firsts)
    try:
        yield
    finally:
        hook.remove()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read what a checkpoint holds of a model that no one has cut yet, on top of what the model was made of."""
    if is_peft_model(model):
        adapted: Any = model
        adapted.load_adapter(str(folder), "default", is_trainable=True)
    elif (file := folder / SAFE_WEIGHTS_NAME).is_file():
        model.load_state_dict(load_file(file), strict=False)  # tied weights are there once
    else:
        load_sharded_checkpoint(model, str(folder), strict=False)
