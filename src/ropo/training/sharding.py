"""Weights that are cut over processes: by FSDP2, where the adapter stays whole on each, and by DeepSpeed.

FSDP2 leaves the adapter alone, which is small. Sharded with the base it would be cast to the dtype of FSDP's mixed
precision, where angles and magnitudes near 1 lose their updates, and each layer would have to build its rotations
alone. Its gradients are averaged here, once a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from ropo.errors import UserError


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
            "fsdp_cpu_ram_efficient_loading: must be false, since every process looks at the model before it is "
            "sharded; set it in accelerate's config"
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
    modules = list(adapter_modules(model))
    accelerator.state.fsdp_plugin.ignored_modules = modules
    with torch.no_grad():
        for module in modules:
            module.to(accelerator.device)
            for parameter in module.parameters():
                torch.distributed.broadcast(parameter.data, 0)
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


def adapter_modules(model: nn.Module) -> Iterator[nn.Module]:
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
def still_whole(config: TrainingArguments, model: nn.Module | None = None) -> Iterator[None]:
    """Load models, or call one, as if there were no DeepSpeed, which cuts what is whole when training begins.

    Under ZeRO-3 transformers would cut weights over the processes as it loads them, and TRL's LM head takes them for
    cut. But before training each process looks at the model: at its fingerprint, and at its packed log-probs.

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


def gather_layer_by_layer(model: nn.Module) -> None:
    """Let ZeRO-3 gather an adapted layer's parameters together, whichever adapters its forward pass reads.

    DeepSpeed gathers what a module's own forward pass is seen to use, in the order of the first pass. Most adapters are
    read by the layer around them instead, and not by every pass: a reference pass leaves one out, or reads another.
    """
    from deepspeed.utils import set_z3_leaf_modules

    adapted = {type(module) for module in model.modules() if isinstance(module, BaseTunerLayer)}
    if adapted:
        set_z3_leaf_modules(model, list(adapted))


def is_cut(model: nn.Module) -> bool:
    """Tell whether DeepSpeed's ZeRO-3 has cut a model's weights, so that it runs inside DeepSpeed's engine only."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that are trained, by name."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}
