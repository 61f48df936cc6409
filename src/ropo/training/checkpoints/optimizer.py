"""An optimizer's state in a checkpoint, whoever holds it: one process, each process, FSDP2's shards or DeepSpeed's.

Plain data and what every process has whole go into `optimizer.json` and `optimizer.safetensors`, in the layout of
PyTorch's own `state_dict`. DeepSpeed's flat partitions are put together into it, parameter by parameter, by DeepSpeed's
own functions. Of what FSDP2 has cut each process writes its shards, by `torch.distributed.checkpoint`, to
safetensors files in `optimizer/`, which any number of processes reads. So a checkpoint of any of them continues under
any other. Nothing is pickled.
"""

from __future__ import annotations

__all__ = ()

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor, distribute_tensor

from ropo.core.errors import UserError
from ropo.training.checkpoints.state import load_state, save_state

_NAME = "optimizer"
_MASTER = "master"  # the float32 copy that DeepSpeed trains of a parameter in half precision


def save_optimizer(trainer: Any, folder: Path) -> None:
    """Write the optimizer's state; every process calls it.

    Cost: under FSDP2 each process writes what it holds; DeepSpeed's states are gathered one at a time, and held whole
        by the first process until they are written.
    """
    first = trainer.args.should_save
    if trainer.is_deepspeed_enabled:
        state = _state_of_deepspeed(trainer)
        if first and state is not None:
            save_state(state, folder / _NAME)
        return
    shards: dict[str, Tensor] = {}
    plain = _set_shards_aside(trainer.optimizer.state_dict(), shards)
    if first:
        save_state(plain, folder / _NAME)
    if shards:
        trainer.accelerator.wait_for_everyone()
        with _telling_the_failure():
            dcp.save(shards, storage_writer=HuggingFaceStorageWriter(str(folder / _NAME), save_distributed=True))


def load_optimizer(trainer: Any, folder: Path) -> None:
    """Read what `save_optimizer` wrote, with as many processes or others; every process calls it.

    Raises:
        UserError: If it belongs to an optimizer of other parameters or of another kind.
    """
    kept = load_state(folder / _NAME)
    try:
        if trainer.is_deepspeed_enabled:
            _put_into_deepspeed(trainer, _with_shards(kept, folder, _grouped(trainer.holders.optimizer_groups)))
        else:
            optimizer = trainer.optimizer
            optimizer.load_state_dict(_with_shards(kept, folder, _grouped(optimizer.param_groups)))
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"resume_from_checkpoint {folder}: its optimizer does not fit this run's ({error}); give the options that "
            "it was written with"
        ) from error


def _grouped(groups: Any) -> list[nn.Parameter]:
    """Return the parameters in the order by which `state_dict` numbers them."""
    return [parameter for group in groups for parameter in group["params"]]


def _set_shards_aside(state: dict[str, Any], shards: dict[str, Tensor]) -> dict[str, Any]:
    """Return a state with a note in the place of each tensor that FSDP2 has cut, and put these into `shards`."""

    def aside(name: str, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        shards[name] = value
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}

    return {**state, "state": _each_value(state["state"], aside)}


def _with_shards(kept: dict[str, Any], folder: Path, parameters: list[nn.Parameter]) -> dict[str, Any]:
    """Put the shards back in, and cut what was whole, as each parameter of this run is or is not cut."""
    shards: dict[str, Tensor] = {}

    def placed(name: str, value: Any) -> Any:
        parameter = parameters[int(name.partition(".")[0])]
        cut = parameter if isinstance(parameter, DTensor) else None
        if isinstance(value, dict):
            dtype = getattr(torch, value["dtype"])
            whole = torch.empty(value["shape"], dtype=dtype)
            shards[name] = whole if cut is None else torch.zeros_like(cut, dtype=dtype)
            return shards[name]
        if cut is not None and isinstance(value, Tensor) and value.shape == cut.shape:
            return distribute_tensor(value.to(cut.device), cut.device_mesh, cut.placements, src_data_rank=None)
        return value

    state = {**kept, "state": _each_value(kept["state"], placed)}
    if shards:
        alone = not torch.distributed.is_initialized()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process: nothing is amiss
            with _telling_the_failure():
                dcp.load(shards, storage_reader=HuggingFaceStorageReader(str(folder / _NAME)), no_dist=alone)
    return state


@contextmanager
def _telling_the_failure() -> Iterator[None]:
    """Raise what went wrong in one of the processes, which PyTorch tells all in an exception that few catch."""
    try:
        yield
    except CheckpointException as error:
        failure, _ = next(iter(error.failures.values()))
        raise failure from error


def _each_value(state: dict[int, dict[str, Any]], change: Callable[[str, Any], Any]) -> dict[int, dict[str, Any]]:
    """Change each value of an optimizer's state, which is named by its parameter's number and its own key."""
    return {
        number: {key: change(f"{number}.{key}", value) for key, value in values.items()}
        for number, values in state.items()
    }


# DeepSpeed, whose optimizer trains flat partitions of many parameters at once


def _partitions(zero: Any) -> list[Tensor] | None:
    """Return the flat float32 partitions that this process trains; None for an optimizer that has others."""
    if getattr(zero, "optimizer_swapper", None) is not None:  # on NVMe
        return None
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):  # of stage 3, and of 1 and 2
        if hasattr(zero, name):
            return list(getattr(zero, name))
    return None


def _state_of_deepspeed(trainer: Any) -> dict[str, Any] | None:
    """Return what the optimizer's state would be, had it the parameters whole; the first process alone keeps tensors.

    None for a kind of optimizer whose partitions are not known: its checkpoints hold weights only.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    zero = trainer.model_wrapped.optimizer
    flats = _partitions(zero)
    if flats is None:
        return None
    _link(zero)
    states = [zero.optimizer.state[flat] for flat in flats if flat in zero.optimizer.state]
    cut = [key for key, value in states[0].items() if _like(value, flats[0])] if states else []
    whole = {key: value for key, value in states[0].items() if key not in cut} if states else {}

    def kept(value: Tensor) -> Tensor:
        return value.to("cpu", copy=True) if trainer.args.should_save else torch.empty(0)

    state: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(_grouped(trainer.holders.optimizer_groups)):
        state[number] = {**whole, **{key: kept(safe_get_full_optimizer_state(parameter, key)) for key in cut}}
        if parameter.dtype != torch.float32:
            state[number][_MASTER] = kept(safe_get_full_fp32_param(parameter))
    number, groups = 0, []
    of_engine = iter(zero.optimizer.param_groups)  # DeepSpeed has dropped groups without parameters
    for group in trainer.holders.optimizer_groups:
        numbers = list(range(number, number + len(group["params"])))
        number += len(numbers)
        groups.append({**_plain(next(of_engine) if numbers else group), "params": numbers})
    return {"state": state, "param_groups": groups}


def _put_into_deepspeed(trainer: Any, kept: dict[str, Any]) -> None:
    """Give DeepSpeed's optimizer the state that it had, cut for the processes that there are now."""
    zero, parameters = trainer.model_wrapped.optimizer, _grouped(trainer.holders.optimizer_groups)
    flats = _partitions(zero)
    if flats is None:
        raise UserError(f"resume: DeepSpeed's {type(zero).__name__} shows no whole state; start the run afresh")
    if sorted(kept["state"]) != list(range(len(parameters))):
        raise ValueError(f"it holds the state of {len(kept['state'])} parameters, and {len(parameters)} are trained")
    first = kept["state"][0]
    cut = [key for key, value in first.items() if _like(value, parameters[0]) and key != _MASTER]
    for flat in flats:
        whole = {key: value for key, value in first.items() if key not in (*cut, _MASTER)}
        copies = {key: value.clone() if isinstance(value, Tensor) else value for key, value in whole.items()}
        zero.optimizer.state[flat] = {**{key: torch.zeros_like(flat) for key in cut}, **copies}
    _link(zero)
    for number, parameter in enumerate(parameters):
        for key in cut:
            _put(parameter, kept["state"][number][key], key)
        if _MASTER in kept["state"][number] and parameter.dtype != torch.float32:
            _put(parameter, kept["state"][number][_MASTER], None)
    groups = [group for group in kept["param_groups"] if group["params"]]
    for group, values in zip(zero.optimizer.param_groups, groups, strict=True):
        group.update(_plain(values))


def _link(zero: Any) -> None:
    """Let stages 1 and 2 find each parameter's part of the state.

    They look for it once, after the step of the first group, when the other groups have none yet.
    """
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state") and zero.optimizer.state:
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _put(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Let this process take its part of a state, or of the float32 weights where no state is named."""
    from deepspeed import utils

    given: Any = parameter
    value = value.to(given.device if value.numel() else value.device).float()
    if not hasattr(given, "ds_id"):
        _call(utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state, given, value, key)
        return
    # DeepSpeed's function for whole values of stage 3 takes none whose length its processes do not divide.
    size, place = given.ds_tensor.numel(), torch.distributed.get_rank(given.ds_process_group)
    part = value.flatten()[size * place : size * (place + 1)]
    part = nn.functional.pad(part, (0, size - len(part)))
    _call(utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state, given, part, key)


def _call(set_weights: Any, set_state: Any, parameter: Any, value: Tensor, key: str | None) -> None:
    if key is None:
        set_weights(parameter, value)
    else:
        set_state(parameter, value, key)


def _like(value: Any, other: Any) -> bool:
    """Tell whether a value has one number for each of a parameter, or of a partition."""
    shape = getattr(other, "ds_shape", other.shape)  # stage 3 leaves nothing in the parameter itself
    return isinstance(value, Tensor) and value.shape == shape


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group, without its parameters."""
    plain = (bool, int, float, str, list, tuple, Tensor, type(None))
    return {key: value for key, value in group.items() if key != "params" and isinstance(value, plain)}
