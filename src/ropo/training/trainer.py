"""Preference training on packs, for any adapter or for every weight."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from ropo.lm.limits import cap_length
from ropo.training import reference_cache
from ropo.training.config import PreferenceConfig
from ropo.training.dealing import deal_out, gathering_unequal, packed_tokens
from ropo.training.finite import FiniteTrainer
from ropo.training.packed_model import base_model_of, enable_packing
from ropo.training.packing import Pack, pack_batch
from ropo.training.sharding import (
    average_gradients,
    check_deepspeed,
    check_fsdp,
    check_sharding,
    is_cut,
    keep_adapters_whole,
    without_deepspeed,
)
from ropo.training.trainable import (
    NUMBER,
    Numbered,
    check_records,
    keep_trainable,
    number_records,
    report_rewritten_prompts,
)

logger = logging.getLogger(__name__)


class PreferenceTrainer(FiniteTrainer):
    """Train a causal language model on preference pairs with any loss of `trl.DPOTrainer`, without wasted tokens.

    Losses, metrics and arguments are those of `trl.DPOTrainer`. Batches are computed as packs: no padding, and each
    shared prompt once, for policy and reference, in training, evaluation and prediction. A model that cannot be packed
    is trained padded, with one line that says why.

    Two metrics are added: `unique_tokens_per_second`, tokens computed in packs and trained on by all processes per
    second of wall time since the first batch after the last log (`num_tokens` stays TRL's, which counts a prompt once
    an answer), and `packing_ratio`, padded over unique tokens.

    Args:
        model: As in `trl.DPOTrainer`.
        ref_model: As in `trl.DPOTrainer`.
        args: Options; None for the defaults.
        **kwargs: Every other argument of `trl.DPOTrainer`.
    """

    args: PreferenceConfig
    model: Any
    ref_model: Any
    _signature_columns: Any

    def __init__(self, model: Any, ref_model: Any = None, args: PreferenceConfig | None = None, **kwargs: Any) -> None:
        self._packs_batches: bool | None = None
        self._padded_tokens = self._unique_tokens = 0
        self._counting_since = 0.0
        args = args or PreferenceConfig()
        self._given = model
        if not isinstance(model, str):
            args.max_length = cap_length(model, args.max_length)
        super().__init__(model, ref_model, args, **kwargs)
        self.data_collator = Numbered(self.data_collator)
        self._kept_whole = keep_adapters_whole(self.model, self.accelerator) if self.is_fsdp_enabled else []
        if self.is_deepspeed_enabled:
            check_deepspeed(self.model, self.args)
        self._enable_packing()

    def _enable_packing(self) -> bool:
        """Prepare the models on first use, which `precompute_ref_log_probs` puts inside TRL's constructor."""
        if self._packs_batches is None:
            reason = self._packing_obstacle()
            self._packs_batches = reason is None
            if reason is not None and self.args.packing:
                logger.warning(
                    f"training padded: {type(base_model_of(self.model)).__name__} cannot be packed, {reason}"
                )
        return self._packs_batches

    def _packing_obstacle(self) -> str | None:
        if not self.args.packing:
            return "packing is off"
        if self._is_vision_dataset:
            return "the data has images"
        if self.aux_loss_enabled:
            return "its load-balancing loss counts the tokens of the padded batch"
        if is_peft_model(self.model) and self.model.active_peft_config.is_prompt_learning:
            return "its adapter prepends virtual tokens"
        if is_cut(self.model):
            return "DeepSpeed has cut its weights already; load it before the trainer's configuration is made"
        autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        with without_deepspeed(self.args):
            reason = enable_packing(base_model_of(self.model), autocast)
        if reason is None and self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)  # DeepSpeed's engine may be around it already
            with without_deepspeed(self.args, reference):
                reason = enable_packing(reference, autocast)
        return reason

    def _with_packs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Add packs to a batch and take the records' numbers out: TRL gives the model what it does not know."""
        inputs = {name: value for name, value in inputs.items() if name != NUMBER}
        if not self._enable_packing() or "packs" in inputs:
            return inputs
        layout = (inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])
        return {**inputs, "packs": pack_batch(*layout, budget=self.args.tokens_per_step)}

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Compute reference log-probs for a batch, packed."""
        return super().compute_ref_log_probs(model, self._with_packs(inputs))

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        inputs = self._with_packs(inputs)
        if not self.model.training:
            return super()._compute_loss(model, inputs, return_outputs)
        self._count(inputs)
        pairs = len(inputs["input_ids"]) // 2
        of_all = self.accelerator.gather(torch.tensor([pairs], device=self.accelerator.device))
        if bool((of_all == pairs).all()):
            return super()._compute_loss(model, inputs, return_outputs)
        with gathering_unequal(self.accelerator):
            loss = super()._compute_loss(model, inputs, return_outputs)
        # The mean over processes, which their gradients are averaged to, is then that over all pairs.
        return loss * (pairs * len(of_all) / of_all.sum())

    def _clip_grad_norm(self, model: Any) -> Any:
        average_gradients(self._kept_whole)
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            average_gradients(self._kept_whole)
        return super()._get_grad_norm(model, grad_norm)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, and refuse what it shards in a way that changes training."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            check_fsdp(self.accelerator)
        check_sharding(self.args, self.is_fsdp_enabled, self.is_deepspeed_enabled)

    def get_train_dataloader(self) -> DataLoader:
        """Load batches; with several processes each gets its share of one batch, as `ropo.training.dealing` says."""
        loader = super().get_train_dataloader()
        dataset: Any = self.train_dataset
        plain = isinstance(getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None), BatchSampler)
        if self.args.world_size > 1 and plain and isinstance(dataset, Dataset) and "chosen_ids" in dataset.column_names:
            tokens = packed_tokens(dataset, self.args.max_length)
            deal_out(loader, tokens, self.args.train_batch_size, self.accelerator)
        return loader

    def _count(self, inputs: dict[str, Any]) -> None:
        if not self._unique_tokens:  # from the first batch after a log, so that evaluation is not counted
            self._counting_since = time.perf_counter()
        padded = inputs["input_ids"].numel()
        packs: tuple[Pack, ...] = inputs.get("packs", ())
        self._padded_tokens += padded
        self._unique_tokens += sum(pack.tokens for pack in packs) if packs else padded

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics and how fast unique tokens are trained."""
        if self.model.training and self._unique_tokens:
            counts = torch.tensor([[self._padded_tokens, self._unique_tokens]], device=self.accelerator.device)
            padded, unique = self.accelerator.gather(counts).sum(dim=0).tolist()
            logs["unique_tokens_per_second"] = unique / (time.perf_counter() - self._counting_since)
            logs["packing_ratio"] = padded / unique
            self._padded_tokens = self._unique_tokens = 0
        super().log(logs, start_time)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Float[Tensor, "pairs 2"] | None, None]:
        """Compute the loss of a batch and, for `predict`, the log-probs of its answers.

        Where TRL recomputes logits of the whole padded batch, predictions here are the policy's summed log-probs
        (chosen, rejected) of each pair.
        """
        inputs = self._with_packs(self._prepare_inputs(inputs))
        loss, _, _ = super().prediction_step(model, inputs, prediction_loss_only=True)
        if prediction_loss_only:
            return loss, None, None
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        names = [name for name in ("input_ids", "attention_mask", "packs") if name in inputs]
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = model(**{name: inputs[name] for name in names}, labels=labels, fused_lm_head=True)
        return loss, torch.stack(scores.log_probs.sum(dim=1).chunk(2), dim=1), None

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if NUMBER not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, NUMBER]

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Tokenise as TRL does, then drop and name what cannot be trained on; a stream is passed on as it comes."""
        if isinstance(dataset, IterableDataset) or NUMBER in dataset.column_names:
            return super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        size = len(dataset)
        prepared = super()._prepare_dataset(number_records(dataset), processing_class, args, dataset_name)
        if not isinstance(self._given, str):
            check_records(self._given, prepared, processing_class)
        report_rewritten_prompts(prepared, dataset_name, processing_class)
        return keep_trainable(prepared, size, dataset_name, args.max_length, args.tokens_per_step)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Read the reference log-probs from the cache, or compute and keep them."""
        path = reference_cache.cache_file(self._reference_fingerprint(dataset))
        log_probs = reference_cache.load(path)
        if log_probs is None:
            log_probs = self._compute_all_ref_logps(dataset, name, batch_size)
            if self.accelerator.is_main_process:
                reference_cache.save(path, *log_probs)
        chosen, rejected = log_probs
        dataset = dataset.add_column("ref_chosen_logps", chosen.tolist())
        return dataset.add_column("ref_rejected_logps", rejected.tolist())

    def _reference_fingerprint(self, dataset: Dataset) -> str:
        names = ("max_length", "truncation_mode", "ld_alpha", "bf16", "fp16")
        options = {name: getattr(self.args, name) for name in names}
        return reference_cache.fingerprint(dataset, self.ref_model or self.model, options)

    def _compute_all_ref_logps(
        self, dataset: Dataset, name: str, batch_size: int
    ) -> tuple[Float[Tensor, " records"], Float[Tensor, " records"]]:
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        model = self.ref_model or self.model
        silent = self.args.disable_tqdm or not self.accelerator.is_main_process
        shown = track(loader, f"reference log-probs, {name}", console=Console(stderr=True), disable=silent)
        batches = [self.accelerator.gather_for_metrics(self.compute_ref_log_probs(model, batch)) for batch in shown]
        chosen, rejected = (torch.cat(column).float().cpu() for column in zip(*batches, strict=True))
        return chosen, rejected

    def _send_telemetry(self) -> None:
        """Send nothing."""
