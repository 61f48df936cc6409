"""Reference log-probs in advance: from the cache, computed at once, or as soon as a process can run the reference.

FSDP and DeepSpeed cut the weights when training begins, and before that a model that needs them fits no device. The
data then hold numbers of rows in a table, which is filled, by all processes together, as soon as the weights are cut;
the cache is asked before that, so a second run computes nothing.

They are kept on disk by what they are computed from and nothing else. Token ids are what a tokenizer and its chat
template make of the data, so the key is a hash of those ids, of the weights and configuration of the reference, and of
what else enters the sums. Every method that trains on the same base model shares an entry; a change of anything that
matters gives another key.
"""

from __future__ import annotations

__all__ = ()

import copy
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from jaxtyping import Float
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ropo.core.errors import UserError
from ropo.core.files import replace_atomically
from ropo.core.progress import show_progress
from ropo.lm.adapters import evaluating
from ropo.lm.spreading import is_spread
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.processes import by_the_first
from ropo.training.distributed.sharding import uses_fsdp

_TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
_TRAINING_OPTIONS = ("max_length", "truncation_mode", "ld_alpha", "bf16", "fp16")  # which enter the sums
_IRRELEVANT_OPTIONS = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "pad_token_id")
_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class _NoReference(FSDPModule, nn.Module):
    """Stand in for the reference model that TRL would load for FSDP's sake, and that nobody runs."""

    config = PreTrainedConfig()

    def __new__(cls) -> _NoReference:
        """Make it as any module; FSDPModule's own is for the classes that `fully_shard` makes."""
        return object.__new__(cls)


def reference_for(model: Any, reference: Any, config: PreferenceConfig, adapted: bool) -> Any:
    """Return the reference model that TRL is to have: the one that was given, or none where it needs none.

    For full fine-tuning TRL would load the checkpoint that the model came from, but the reference is the model that
    training starts from, which may have been trained or merged since: so it is copied. Only what is cut or spread over
    devices already is left to TRL. Under FSDP a stand-in takes the place of one that nobody runs.
    """
    if adapted or reference is not None:
        return reference
    if config.precompute_ref_log_probs:
        return _NoReference() if uses_fsdp(config) else None
    cut = is_spread(model) or is_deepspeed_zero3_enabled() or getattr(model, "hf_device_map", None) is not None
    return copy.deepcopy(model) if isinstance(model, nn.Module) and not cut else None


class PrecomputedReference(TrainerCallback):
    """Add the reference's log-probs to data, and under FSDP and DeepSpeed compute them when training begins.

    Args:
        trainer: Whose data they are for; where its weights are sharded, its policy at the start, without its adapter,
            is the reference.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._waiting: list[tuple[Dataset, str, int, Path | None]] = []
        self._rows = 0
        self._table: Float[Tensor, "records 2"] | None = None

    def add_to(self, dataset: Any, name: str, batch_size: int) -> Dataset:
        """Return a data set with log-probs or, where they cannot be computed yet, with the numbers of rows to come.

        Raises:
            UserError: For a stream, as TRL refuses it: its order may change, and it may have no end; and for a
                reference model beside weights that are sharded.

        Cost: one forward pass of the reference over the data, the first time.
        """
        trainer = self.trainer
        if isinstance(dataset, IterableDataset):
            raise UserError(
                f"precompute_ref_log_probs: the {name} data is a stream, whose order may change and which may not end; "
                "give a Dataset, or leave the option out"
            )
        if isinstance(trainer.ref_model, _NoReference):
            trainer.ref_model = None
        late = trainer.holders.are_sharded
        if late and trainer.ref_model is not None:
            raise UserError(
                "precompute_ref_log_probs: with FSDP and DeepSpeed the reference is the model that training starts "
                "from; leave ref_model out, or the option"
            )
        if late and self._table is not None:  # training has begun
            return _with_columns(dataset, self._compute(dataset, name, batch_size, None))
        look: Callable[[], Any] = lambda: self._kept(dataset)  # noqa: E731
        path, found = by_the_first(look) if late else look()  # which may be the only one with the weights
        if found is None and not late:
            found = self._compute(dataset, name, batch_size, path)
        if found is not None:
            return _with_columns(dataset, found)
        self._waiting.append((dataset, name, batch_size, path))
        rows = list(range(self._rows, self._rows + len(dataset)))
        self._rows += len(dataset)
        for column in _COLUMNS:
            dataset = dataset.add_column(column, rows)
        return dataset

    def _kept(self, dataset: Dataset) -> tuple[Path | None, Any]:
        path = _cache_file(self.trainer, dataset)
        if path is None or not path.exists():
            return path, None
        log_probs = load_file(path)
        return path, torch.stack([log_probs["chosen"], log_probs["rejected"]], dim=1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fill the table.

        Raises:
            UserError: If the policy is the reference, and has been trained.
        """
        trainer = self.trainer
        if self._waiting and state.global_step and not is_peft_model(trainer.model):
            raise UserError(
                "precompute_ref_log_probs: they are no longer in the cache (HF_DATASETS_CACHE), and the weights that "
                "would give them have been trained; start the run afresh"
            )
        tables = [self._compute(*each) for each in self._waiting]
        self._waiting = []
        found = torch.cat(tables) if tables else torch.empty(0, 2)
        self._table = found.to(trainer.accelerator.device)

    def look_up(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with log-probs where it has numbers of rows."""
        rows = inputs.get(_COLUMNS[0])
        if rows is None or rows.is_floating_point():
            return inputs
        if self._table is None:
            raise UserError(
                "precompute_ref_log_probs: with FSDP and DeepSpeed they are computed when training begins, and nothing "
                "can be evaluated before; call train first, or leave the option out"
            )
        chosen, rejected = self._table[rows.to(self._table.device)].unbind(dim=1)
        return {**inputs, _COLUMNS[0]: chosen, _COLUMNS[1]: rejected}

    def _compute(self, dataset: Dataset, name: str, batch_size: int, path: Path | None) -> Float[Tensor, "records 2"]:
        """Compute log-probs, and keep them where there is a place for them."""
        found = _log_probs(self.trainer, dataset, name, batch_size)
        if path is not None and self.trainer.accelerator.is_main_process:
            chosen, rejected = found.unbind(dim=1)
            tensors = {"chosen": chosen.contiguous(), "rejected": rejected.contiguous()}
            replace_atomically(path, lambda unfinished: save_file(tensors, unfinished))
        return found


def _with_columns(dataset: Dataset, table: Float[Tensor, "records 2"]) -> Dataset:
    for column, values in zip(_COLUMNS, table.T, strict=True):
        dataset = dataset.add_column(column, values.tolist())
    return dataset


def _cache_file(trainer: Any, dataset: Dataset) -> Path | None:
    """Return where the log-probs of a data set are kept, which may not exist; None where nobody knows how it is cut."""
    collate = getattr(trainer.data_collator, "collate", trainer.data_collator)
    if type(collate) is not DataCollatorForPreference:  # another may cut where it likes
        return None
    options = {each: getattr(trainer.args, each) for each in _TRAINING_OPTIONS}
    name = cache_key(dataset, trainer.ref_model or trainer.model, options)
    return Path(datasets.config.HF_DATASETS_CACHE) / "ropo-reference" / f"{name}.safetensors"


def _log_probs(trainer: Any, dataset: Dataset, name: str, batch_size: int) -> Float[Tensor, "records 2"]:
    """Compute the log-probs of chosen and rejected answers under the reference, by all processes together."""
    accelerator = trainer.accelerator
    loader = accelerator.prepare_data_loader(DataLoader(dataset, batch_size, collate_fn=trainer.data_collator))
    model = trainer.ref_model or trainer.model
    silent = trainer.args.disable_tqdm or not accelerator.is_main_process
    batches = []
    bar = nullcontext() if silent else show_progress(f"reference log-probs, {name}", len(loader))
    with evaluating(model), bar as advance:
        for batch in loader:
            batches.append(accelerator.gather_for_metrics(trainer.compute_ref_log_probs(model, batch)))
            if advance is not None:
                advance(1)
    return torch.stack([torch.cat(column).float().cpu() for column in zip(*batches, strict=True)], dim=1)


def cache_key(dataset: Dataset, model: PreTrainedModel | PeftModel, options: dict[str, Any]) -> str:
    """Hash everything that reference log-probs depend on.

    Args:
        dataset: Tokenised records; their order counts.
        model: The reference, or the policy whose adapter is switched off to get it.
        options: What else enters the sums (truncation, precision, ...).

    Cost: one pass over data and weights; about a second for each GB.
    """
    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    for record in dataset.select_columns(list(_TOKEN_COLUMNS)):
        digest.update(repr([record[column] for column in _TOKEN_COLUMNS]).encode())
    configs = [model.config.to_dict()]
    if isinstance(model, PeftModel) and "ref" in model.peft_config:
        configs.append(model.peft_config["ref"].to_dict())
    for config in configs:
        digest.update(repr(sorted((k, repr(v)) for k, v in config.items() if k not in _IRRELEVANT_OPTIONS)).encode())
    for name, tensor in sorted(reference_weights(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def reference_weights(model: PreTrainedModel | PeftModel) -> dict[str, Tensor]:
    """Collect the weights of the reference, under the names they have without PEFT.

    These are the base model's weights, and those of the adapter `ref` that TRL copies when training continues from one.
    """
    if not isinstance(model, PeftModel):
        return model.state_dict()
    prefix = getattr(model.base_model, "prefix", "")  # of the adapter's own parameters, such as "lora_"
    weights = {}
    for name, tensor in model.get_base_model().state_dict().items():
        parts = name.split(".")
        is_adapter = "modules_to_save" in parts or any(prefix and part.startswith(prefix) for part in parts)
        if not is_adapter or "ref" in parts:
            weights[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = tensor
    return weights
