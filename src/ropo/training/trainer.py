"""Preference training on packs, for any adapter or for every weight."""

from __future__ import annotations

__all__ = ["PreferenceTrainer"]

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.trainer import TRAINING_ARGS_NAME
from trl import DPOTrainer

from ropo.core.errors import UserError
from ropo.lm.capacity import cap_length
from ropo.lm.gguf import quiet_about_words
from ropo.lm.loading import load_shapes
from ropo.training.arguments import check_arguments, check_made, check_run
from ropo.training.card import CardFacts, write_card
from ropo.training.checkpoints.checkpointer import Checkpointer, Counting, LogCounters
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.dealing import deal_out, weighing
from ropo.training.distributed.holders import Holders
from ropo.training.distributed.sequence import SplitSequences, processes_of_a_pair, without_accelerates
from ropo.training.distributed.sharding import without_deepspeed
from ropo.training.finite import FiniteGuard
from ropo.training.packing.packer import NUMBER, Packer, without_numbers
from ropo.training.precomputed import PrecomputedReference, reference_for
from ropo.training.reference import AdapterReference, has_adapter, reference_of
from ropo.training.remedies.chosen import Remedies
from ropo.training.remedies.moving_reference import hidden_from_trl
from ropo.training.remedies.options import check_unsharded
from ropo.training.remedies.scores import loss_of_pairs, summed_log_probs
from ropo.training.trainable import trainable


class PreferenceTrainer(DPOTrainer):
    """Train a causal language model on preference pairs with any loss of `trl.DPOTrainer`, without wasted tokens.

    Losses, metrics and arguments are those of `trl.DPOTrainer`. Batches are computed as packs: no padding, and each
    shared prompt once, for policy and reference, in training, evaluation and prediction (`Packer`). No step is taken on
    numbers that are not finite (`FiniteGuard`), and a run that is killed goes on as if it had not been
    (`Checkpointer`).

    Two metrics are added: `unique_tokens_per_second`, tokens computed in packs and trained on by all processes per
    second of wall time since the first batch after the last log, without what is `untimed` (`num_tokens` stays TRL's,
    which counts a prompt once an answer), and `packing_ratio`, padded over unique tokens.

    Attributes:
        card_facts: What the model card says of the run beside what the trainer knows.
        holders: Who holds which weights.
        remedies: What is added to TRL's losses and steps.

    Args:
        model: As in `trl.DPOTrainer`.
        ref_model: As in `trl.DPOTrainer`.
        args: Options; None for the defaults.
        **kwargs: Every other argument of `trl.DPOTrainer`.

    Raises:
        UserError: If the arguments cannot be trained, or would train something else than they say.
    """

    args: PreferenceConfig
    model: Any
    model_wrapped: Any
    ref_model: Any
    _signature_columns: Any
    card_facts: CardFacts = CardFacts()

    def __init__(self, model: Any, ref_model: Any = None, args: PreferenceConfig | None = None, **kwargs: Any) -> None:
        args = args or PreferenceConfig()
        check_arguments(model, ref_model, args, kwargs)
        self._untrained = model
        if isinstance(model, str):  # TRL loads it later
            with without_deepspeed(args):
                self._untrained = load_shapes(model, trust_remote_code=args.trust_remote_code)
        args.max_length = cap_length(self._untrained, args.max_length, kwargs.get("peft_config"))
        adapted = has_adapter(model) or kwargs.get("peft_config") is not None
        self.holders = Holders(self, model, ref_model)
        self._reference = AdapterReference(model, adapted and ref_model is None, self.holders.find_out)
        self._precomputed = PrecomputedReference(self)
        self._packer: Packer | None = None
        self._split: SplitSequences | None = None
        self._together = processes_of_a_pair(args)
        with hidden_from_trl(args, adapted):
            super().__init__(model, reference_for(model, ref_model, args, adapted), args, **kwargs)
        check_unsharded(args, adapted, self.holders.are_sharded, self.holders.cut_trained)
        check_made(self, kwargs.get("optimizers", (None, None)))
        self.holders.hand_out()
        self._finite = FiniteGuard(self)
        counting: dict[str, Counting] = {"logs": LogCounters(self), "finite": self._finite, "packer": self._prepared()}
        if self._split is not None:
            self.add_callback(self._split)
            self._tp_size = self._together  # TRL's, for processes with the same batch: its tokens count once
        self.add_callback(self._precomputed)
        self.remedies = Remedies(self)
        self._checkpointer = Checkpointer(self, counting | self.remedies.counting())
        self.add_callback(self._checkpointer)
        self.add_callback(self._finite)

    def keep_in_checkpoints(self, name: str, counting: Counting) -> None:
        """Let checkpoints hold what somebody else sums up, under a name of its own."""
        self._checkpointer.counting[name] = counting

    @property
    def packs(self) -> bool:
        """Tell whether batches are packed; else they are padded, as a line has said."""
        return self._prepared().active

    def untimed(self) -> AbstractContextManager[None]:
        """Leave the time of what is done inside, between two steps, out of the tokens per second."""
        return self._prepared().untimed()

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, and refuse what it shards in a way that changes training."""
        with without_accelerates(self.args):
            super().create_accelerator_and_postprocess()
        self.holders.check()

    def _prepared(self) -> Packer:
        """Prepare reference, models and collator on first use, which `precompute_ref_log_probs` puts in `__init__`."""
        if self._packer is None:
            self._reference.complete(self)
            if self._together > 1:
                self._split = SplitSequences(self, self._together)
            self._packer = Packer(self, self._together)
            self.data_collator = self._packer.collator(self.data_collator)
        return self._packer

    # Data

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Tokenise as every command does; what a processor or somebody else tokenised is left to TRL."""
        prepare = super()._prepare_dataset

        def theirs(records: Any) -> Any:
            return prepare(records, processing_class, args, dataset_name)

        return trainable(dataset, dataset_name, args, processing_class, self._untrained, theirs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if NUMBER not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, NUMBER]

    def get_train_dataloader(self) -> DataLoader:
        """Load batches; with several processes each gets its share of one batch, as `distributed.dealing` says."""
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:
            deal_out(loader, self.train_dataset, self.args, self.accelerator, self._together)
        return loader

    # The reference

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Compute reference log-probs for a batch, by its packs where it has some."""
        return super().compute_ref_log_probs(model, without_numbers(inputs))

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Dataset:
        """Read the reference log-probs from the cache, or compute and keep them."""
        if not self.holders.are_sharded:
            self._prepared()
        return self._precomputed.add_to(dataset, name, batch_size)

    # A step

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, going on from a checkpoint where one is named, or from the newest whole one for True.

        Raises:
            UserError: If nothing is trainable, no batch is left to train on, or the checkpoint is not whole.
        """
        check_run(self)
        checkpoint = self._checkpointer.resume_from(resume_from_checkpoint)
        if checkpoint is not None:
            self.holders.load(checkpoint)
        # accelerate leaves alone what it has prepared, if only to measure it: each process would train by itself.
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        result = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        if self.remedies.average is not None:
            self.remedies.average.finish()
        if not self.state.global_step:
            raise UserError("train data: the stream holds no pair that can be trained on; nothing was trained")
        return result

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimizer, and remember its groups of parameters, which DeepSpeed makes into others."""
        optimizer = super().create_optimizer(*args, **kwargs)
        self.holders.remember_groups(optimizer)
        return optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Prepare, and read a checkpoint's progress where transformers would look for FSDP's or DeepSpeed's own."""
        own = None if self.holders.are_sharded else resume_from_checkpoint
        with self.holders.cutting():
            prepared = super()._prepare_for_training(max_steps, train_dataloader, own)
        if own is not resume_from_checkpoint:
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run an epoch, but no step where none is left: transformers looks for that only after a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if self.control.should_training_stop:
            self.model.train()  # as after a step: TRL logs the metrics of training only in this mode
        else:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Compute a batch's gradients; the guard looks at them before the optimizer does."""
        self._finite.before_batch()
        records = inputs[NUMBER].tolist() if NUMBER in inputs else []
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._finite.after_batch(loss, records)
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        inputs = without_numbers(inputs)
        if self.args.precompute_ref_log_probs:
            inputs = self._precomputed.look_up(inputs)
        if not self.model.training:
            return self._loss_of_pairs(model, inputs, return_outputs)
        self._prepared().count(inputs)
        if self._split is not None:
            inputs = {**inputs, "mesh": self._split.mesh}
        pairs, alone = len(inputs["input_ids"]) // 2, self.args.world_size == 1
        with nullcontext() if alone else weighing(self.accelerator, pairs) as weight:
            loss = self._loss_of_pairs(model, inputs, return_outputs)
        if weight is not None:
            loss = loss * weight
        anchor = self.remedies.anchor
        return loss if anchor is None else loss + anchor.loss(reference_of(self))

    def _loss_of_pairs(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        theirs = super()._compute_loss
        return loss_of_pairs(self, lambda: theirs(model, inputs, return_outputs), inputs, self.remedies.own_loss)

    def _clip_grad_norm(self, model: Any) -> Any:
        self.holders.average_gradients()
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            self.holders.average_gradients()
        return super()._get_grad_norm(model, grad_norm)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics, the speed in unique tokens and the skipped steps.

        The mean loss at the end is that of the whole run, not of its steps since it was resumed.
        """
        if self.model.training:
            self._prepared().amend(logs, self.accelerator)
        self._finite.amend(logs)
        if "train_loss" in logs:
            done = self.state.global_step - self._finite.skipped_steps
            logs["train_loss"] = self._total_loss_scalar / max(done, 1)
        super().log(logs, start_time)

    # Evaluation

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Any, Any]:
        """Compute the loss of a batch and, for `predict`, the log-probs of its answers.

        Where TRL recomputes logits of the whole padded batch, predictions here are the policy's summed log-probs
        (chosen, rejected) of each pair. With `compute_metrics` they are TRL's: logits, and token ids as labels.
        """
        inputs = self._prepare_inputs(inputs)
        if self.compute_metrics is not None and not prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss, _, _ = super().prediction_step(model, inputs, prediction_loss_only=True)
        if prediction_loss_only:
            return loss, None, None
        with torch.no_grad(), self.compute_loss_context_manager():
            return loss, summed_log_probs(model, without_numbers(inputs)), None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            names = ", ".join(name.removeprefix("eval_") for name in metrics)
            raise UserError(
                f"metric_for_best_model: evaluation gives no {self.args.metric_for_best_model!r}; choose from {names}"
            ) from error

    # Files

    def check_weights(self) -> None:
        """Raise `UserError` if a trained weight holds NaN or infinity in any process."""
        self._finite.check_weights()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, unless a trained weight is not finite.

        Raises:
            UserError: If one is not finite; nothing is written then.
        """
        self.check_weights()
        weights = self.holders.gathered()
        if weights is None:
            super().save_model(output_dir, _internal_call)
            return
        if self.args.should_save:
            self._save(output_dir, weights)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save without the pickle of the arguments."""
        with quiet_about_words(self.model):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self._write_card(folder)

    def create_model_card(  # type: ignore[override]  # TRL's, whose arguments are not transformers'
        self, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None
    ) -> None:
        """Write our own card, also before `push_to_hub`."""
        if self.is_world_process_zero():
            more = [tags] if isinstance(tags, str) else tags or ()
            self._write_card(Path(str(self.args.output_dir)), model_name, dataset_name, more)

    def _write_card(self, folder: Path, name: str | None = None, data: str | None = None, tags: Any = ()) -> None:
        facts = replace(self.card_facts, data=data) if data else self.card_facts
        write_card(folder, self.accelerator.unwrap_model(self.model), self.args.loss_type, facts, name, tags)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._checkpointer.save()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._checkpointer.load_optimizer(Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._checkpointer.load_scaler(Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._checkpointer.load_random_state(Path(checkpoint))

    def _send_telemetry(self) -> None:
        """Send nothing."""
