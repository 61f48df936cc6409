"""One pair over several processes: each holds a part of every row's tokens and, while it attends, of the heads.

Ulysses (Jacobs et al. 2023), asked for by accelerate's `sp_size`. accelerate's own needs DeepSpeed's engine and batches
with `labels`, and fixes the number of rows; a pair's losses need the log-probs of whole answers. So rows are cut inside
the model's forward pass, and what comes out of it is whole in every process. torch's DTensor sends what is sent.
"""

from __future__ import annotations

__all__ = ["sharers"]

import functools
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import ParallelismConfig
from accelerate.utils import parse_flag_from_env
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from transformers import AttentionInterface, PreTrainedModel, TrainerCallback
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from trl.trainer.utils import FusedCausalLMOutput

from ropo.core.errors import UserError
from ropo.lm.adapters import base_model_of
from ropo.lm.packing.attention import attend_padded, no_mask
from ropo.lm.packing.model import agree, architecture_reason, trial_batch
from ropo.training.config import PreferenceConfig
from ropo.training.packing.fused import TOKEN_FIELDS, trial_log_probs

SPLIT = "ropo_split"
_FLAG = "ACCELERATE_USE_PARALLELISM_CONFIG"


def processes_of_a_pair(config: PreferenceConfig) -> int:
    """Return how many processes compute each pair together: accelerate's `sp_size`, 1 unless asked for.

    Raises:
        UserError: For ring attention, and where not all processes are to compute a pair.
    """
    plan: Any = config.parallelism_config
    if plan is None and parse_flag_from_env(_FLAG):
        plan = ParallelismConfig()
    if plan is None:
        return 1
    if plan.cp_size > 1:
        raise UserError(
            "parallelism_config cp_size: torch's ring attention knows no packs and runs on CUDA only; set sp_size "
            "instead, which cuts a pair over processes by Ulysses"
        )
    if plan.sp_size > 1 and (plan.sp_size != config.world_size or plan.total_size != plan.sp_size):
        raise UserError(
            f"parallelism_config sp_size: all {config.world_size} process(es) have to compute a pair together, not "
            f"{plan.sp_size}; set it to their number and the other sizes to 1, or leave it out"
        )
    return int(plan.sp_size)


def sharers(config: PreferenceConfig) -> int:
    """Return how many processes, or groups of them, share the pairs of a batch."""
    return config.world_size // processes_of_a_pair(config)


@contextmanager
def without_accelerates(config: PreferenceConfig) -> Iterator[None]:
    """Keep accelerate and transformers from cutting batches, where it is done here."""
    if processes_of_a_pair(config) == 1:
        yield
        return
    kept, flag = config.parallelism_config, os.environ.pop(_FLAG, None)
    config.parallelism_config = None
    try:
        yield
    finally:
        config.parallelism_config = kept
        if flag is not None:
            os.environ[_FLAG] = flag


class SplitSequences(TrainerCallback):
    """Let a trainer's models compute each row together, if they compute the same so.

    Args:
        trainer: With its models as they are trained, before anybody has cut their weights.
        processes: All of them.

    Raises:
        UserError: If a model cannot be cut so.
    """

    def __init__(self, trainer: Any, processes: int) -> None:
        if trainer.args.tokens_per_step is not None:
            raise UserError("tokens_per_step: cuts packs, and with sp_size nothing is packed; leave one of them out")
        self.trainer = trainer
        self.mesh = init_device_mesh(trainer.accelerator.device.type, (processes,), mesh_dim_names=("sp",))
        for model in (trainer.model, trainer.ref_model):
            if model is not None:
                base = base_model_of(trainer.accelerator.unwrap_model(model))
                if why := obstacle(base, processes):
                    raise _refusal(base, why)
                take_parts(base)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Compare a tiny pair's log-probs with those of each process by itself, once the weights are where they stay.

        Raises:
            UserError: If they differ, or the model does not hand down how it is cut.
        """
        accelerator, model = self.trainer.accelerator, self.trainer.model
        base = base_model_of(accelerator.unwrap_model(model))
        input_ids, attention_mask, completion_mask = (each.to(accelerator.device) for each in trial_batch(base))
        trial = input_ids, attention_mask, completion_mask
        try:
            with accelerator.autocast():
                whole, split = (
                    trial_log_probs(model, trial, use_cache=False, **each) for each in ({}, {"mesh": self.mesh})
                )
        except NotImplementedError as error:
            raise _refusal(base, str(error)) from error
        autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
        if not agree(split, whole, autocast or base.dtype):
            raise _refusal(base, "its log-probs come out differently")


def _refusal(model: nn.Module, why: str) -> UserError:
    return UserError(
        f"parallelism_config sp_size: {type(model).__name__} cannot be cut over processes, {why}; leave it out, and "
        "for long pairs use --gradient_checkpointing and --max_length"
    )


def obstacle(model: PreTrainedModel, processes: int) -> str | None:
    """Say why a model's rows cannot be cut over so many processes; None where only a trial tells."""
    if reason := architecture_reason(model):
        return reason
    config: Any = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if layers - {"full_attention"} or (not layers and getattr(config, "sliding_window", None)):
        return "it has layers that see a window"
    heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if any(each % processes for each in heads):
        return f"its {heads[0]} heads of queries and {heads[1]} of keys cannot be dealt out to {processes}"
    return None


def take_parts(model: PreTrainedModel) -> None:
    """Let a model that has TRL's fused LM head compute a part of every row where it is given the processes' mesh."""
    model.set_attn_implementation(SPLIT)
    model.forward = types.MethodType(_split_forward(model.forward, type(model).forward), model)


def _split_forward(fused_forward: Any, original_forward: Any) -> Any:
    """Wrap the forward that `trl.trainer.utils.add_fused_lm_head` made."""

    @functools.wraps(original_forward)  # `generate` reads the signature to know which inputs the model takes
    def forward(self: PreTrainedModel, *args: Any, mesh: DeviceMesh | None = None, **kwargs: Any) -> Any:
        if mesh is None:
            return fused_forward(*args, **kwargs)
        input_ids, labels = kwargs.pop("input_ids"), kwargs.pop("labels")
        del kwargs["attention_mask"]  # padding is on the right, where no token that counts sees it
        rows, width = labels.shape
        part = -(-width // mesh.size())
        own = slice(part * mesh.get_local_rank(), part * (mesh.get_local_rank() + 1))
        spare = part * mesh.size() - width
        output = fused_forward(
            input_ids=F.pad(input_ids, (0, spare))[:, own],
            position_ids=torch.arange(width + spare, device=labels.device)[own].expand(rows, -1),
            attention_mask=no_mask(labels.device),
            shift_labels=F.pad(labels[:, 1:], (0, spare + 1), value=-100)[:, own],
            mesh=mesh,
            **kwargs,
        )
        fields = {name: output[name] for name in TOKEN_FIELDS if name in output}
        # the rest is for metrics; DTensor cannot bear a gradient that never comes
        fields = {name: each if name == "log_probs" else each.detach() for name, each in fields.items()}
        return FusedCausalLMOutput(**{name: _whole(each, mesh)[:, : width - 1] for name, each in fields.items()})

    return forward


def _split_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch kv_heads tokens width"],
    value: Float[Tensor, "batch kv_heads tokens value_width"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    mesh: DeviceMesh | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch tokens heads value_width"], None]:
    """Attend to whole rows with a part of the heads, or as ever where there is no mesh.

    Arguments are those of `packed_attention`; the mesh has the processes in the order of their tokens.

    Returns:
        The attended values of this process's tokens, and None in the place of attention weights.

    Raises:
        NotImplementedError: If the model has attention sinks, or does not hand the mesh down.

    Cost: with P processes four messages, of 1 / P of the queries, keys, values and output each.
    """
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("it has attention sinks")
    if mesh is None:
        return attend_padded(module, query, key, value, attention_mask, dropout, scaling, softcap, **kwargs)
    query, key, value = (_exchange(each, mesh, 2, 1) for each in (query, key, value))
    attended, _ = attend_padded(module, query, key, value, None, dropout, scaling, softcap, **kwargs)
    return _exchange(attended, mesh, 2, 1), None


def _exchange(each: Tensor, mesh: DeviceMesh, cut: int, along: int) -> Tensor:
    """Return a process's part along another dimension than the one that a tensor is cut along."""
    return (
        DTensor.from_local(each, mesh, [Shard(cut)], run_check=False).redistribute(placements=[Shard(along)]).to_local()
    )


def _whole(part: Float[Tensor, "rows part"], mesh: DeviceMesh) -> Float[Tensor, "rows width"]:
    """Return all processes' parts, in each.

    Each process computes the loss of all of them, and its gradients are those of its part: added up over the losses of
    all, they are the loss's once the processes' gradients are averaged, as data parallelism does.
    """
    whole = DTensor.from_local(part, mesh, [Shard(1)], run_check=False).redistribute(placements=[Replicate()])
    return whole.to_local(grad_placements=[Partial()])


AttentionInterface.register(SPLIT, _split_attention)
AttentionMaskInterface.register(SPLIT, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
