"""Keep reference log-probs on disk, by what they are computed from and nothing else.

Token ids are what a tokenizer and its chat template make of the data, so the key is a hash of those ids, of the weights
and configuration of the reference, and of what else enters the sums. Every method that trains on the same base model
shares an entry; a change of anything that matters gives another key.
"""

from __future__ import annotations

__all__ = ()

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from jaxtyping import Float
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ropo.core.files import replace_atomically
from ropo.core.progress import show_progress

_TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
_TRAINING_OPTIONS = ("max_length", "truncation_mode", "ld_alpha", "bf16", "fp16")  # which enter the sums
_IRRELEVANT_OPTIONS = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "pad_token_id")


def cache_file(trainer: Any, dataset: Dataset) -> Path | None:
    """Return where the log-probs of a data set are kept, which may not exist; None where nobody knows how it is cut."""
    collate = getattr(trainer.data_collator, "collate", trainer.data_collator)
    if type(collate) is not DataCollatorForPreference:  # another may cut where it likes
        return None
    options = {each: getattr(trainer.args, each) for each in _TRAINING_OPTIONS}
    name = cache_key(dataset, trainer.ref_model or trainer.model, options)
    return Path(datasets.config.HF_DATASETS_CACHE) / "ropo-reference" / f"{name}.safetensors"


def compute(trainer: Any, dataset: Dataset, name: str, batch_size: int) -> Float[Tensor, "records 2"]:
    """Compute the log-probs of chosen and rejected answers under the reference, by all processes together.

    Args:
        trainer: With its reference and its collator.
        dataset: Tokenised records.
        name: What to call them on the progress bar.
        batch_size: Records in a batch of each process.
    """
    accelerator = trainer.accelerator
    loader = accelerator.prepare_data_loader(DataLoader(dataset, batch_size, collate_fn=trainer.data_collator))
    model = trainer.ref_model or trainer.model
    silent = trainer.args.disable_tqdm or not accelerator.is_main_process
    batches = []
    training = model.training
    model.eval()
    try:
        with nullcontext() if silent else show_progress(f"reference log-probs, {name}", len(loader)) as advance:
            for batch in loader:
                batches.append(accelerator.gather_for_metrics(trainer.compute_ref_log_probs(model, batch)))
                if advance is not None:
                    advance(1)
    finally:
        model.train(training)
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


def load(path: Path) -> Float[Tensor, "records 2"] | None:
    """Read the log-probs of chosen and rejected answers that are kept at `path`, or None where there are none."""
    if not path.exists():
        return None
    log_probs = load_file(path)
    return torch.stack([log_probs["chosen"], log_probs["rejected"]], dim=1)


def save(path: Path, log_probs: Float[Tensor, "records 2"]) -> None:
    """Write log-probs to `path` in one stroke: a reader sees all of them or none."""
    chosen, rejected = log_probs.unbind(dim=1)
    tensors = {"chosen": chosen.contiguous(), "rejected": rejected.contiguous()}
    replace_atomically(path, lambda unfinished: save_file(tensors, unfinished))
