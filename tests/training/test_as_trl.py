"""What TRL does or refuses, `PreferenceTrainer` does or refuses: its features on packs, and every override."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import (
    AdaLoraConfig,
    AdaptionPromptConfig,
    CPTConfig,
    HRAConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    RoadConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, ProcessorMixin
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ropo import RopoConfig
from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.effects import SMOOTHED_LOSSES
from ropo.training.packing.packer import PackingCollator
from ropo.training.remedies.options import OWN_LOSSES
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import VOCABULARY, tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.trainers import LORA, PLAIN, logged, options

TARGETS = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
NAMES = ("loss", "grad_norm", "logps/chosen", "logps/rejected", "entropy", "logits/chosen", "mean_token_accuracy")


def build(trainer, folder, *, model=None, data=None, peft_config="lora", collator=None, given=None, **changes):
    """Build a trainer of ours or of TRL's on the tiny model."""
    ours = issubclass(trainer, PreferenceTrainer)
    settings = options(folder, **{**({} if ours else PLAIN), "max_steps": 4, **changes})
    return trainer(
        tiny_model() if model is None else model,
        args=(PreferenceConfig if ours else DPOConfig)(**settings),
        train_dataset=tiny_pairs(24) if data is None else data,
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(**LORA) if peft_config == "lora" else peft_config,
        data_collator=collator,
        **(given or {}),
    )


def both(tmp_path, **changes):
    return build(PreferenceTrainer, tmp_path / "ours", **changes), build(DPOTrainer, tmp_path / "theirs", **changes)


def assert_alike(ours, theirs) -> None:
    """Train both on the same random numbers, and compare what they log: to the rounding of sums in another order."""
    for trainer in (ours, theirs):
        torch.manual_seed(0)
        trainer.train()
    for name in NAMES:
        found, expected = logged(ours, name), logged(theirs, name)
        assert len(found) == len(expected) == 4
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    assert len(set(logged(theirs, "loss"))) > 1


class PaddedLeft(DataCollatorForPreference):
    """Move the padding of TRL's collator to the left, each row by itself."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        padding = (batch["attention_mask"] == 0).sum(dim=1).tolist()
        moved = {
            name: torch.stack([row.roll(count) for row, count in zip(batch[name], padding, strict=True)])
            for name in ("input_ids", "attention_mask", "completion_mask")
        }
        return {**batch, **moved}


class WithPositions(DataCollatorForPreference):
    """Give the model position ids of its own, which change what it computes."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        return {
            **batch,
            "position_ids": 3 * torch.arange(batch["input_ids"].shape[1])[None].expand_as(batch["input_ids"]),
        }


class WithGaps(DataCollatorForPreference):
    """Hide one token of every prompt."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        batch["attention_mask"][:, 1] = 0
        return batch


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("collator", [PaddedLeft(0), DataCollatorForPreference(0, pad_to_multiple_of=16)])
def test_padding_anywhere_is_stripped(tmp_path, caplog, model, collator):
    lora = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True) if model == "gpt2" else LoraConfig(**LORA)
    ours, theirs = (
        build(trainer, tmp_path, model=tiny_model(model), peft_config=lora, collator=collator)
        for trainer in (PreferenceTrainer, DPOTrainer)
    )
    assert next(iter(ours.get_train_dataloader()))["packs"]
    assert_alike(ours, theirs)
    assert not [record for record in caplog.records if record.name.startswith("ropo")]


@pytest.mark.parametrize(
    ("collator", "said"), [(WithPositions(0), "the collator adds position_ids"), (WithGaps(0), "mask has gaps")]
)
def test_batches_that_packs_cannot_keep_are_padded_with_one_line(tmp_path, caplog, collator, said):
    ours, theirs = both(tmp_path, collator=collator)
    assert_alike(ours, theirs)
    lines = [record.message for record in caplog.records if record.name.startswith("ropo")]
    assert len(lines) == 1
    assert said in lines[0]


def test_tokens_that_padding_predicts_are_left_to_trl(caplog):
    examples = [
        {"prompt_ids": [], "chosen_ids": [5, 6], "rejected_ids": [7]},
        {"prompt_ids": [5, 6, 7], "chosen_ids": [5, 6], "rejected_ids": [7]},
    ]
    assert "packs" not in PackingCollator(PaddedLeft(0), True, None)(examples)
    assert "the collator scores tokens that padding predicts" in caplog.text
    assert "packs" in PackingCollator(DataCollatorForPreference(0), True, None)(examples)  # nothing predicts them there


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")  # TRL's, on purpose
@pytest.mark.parametrize("max_length", [5, 9, 14])
def test_sequences_that_keep_their_end(tmp_path, max_length):
    ours, theirs = both(tmp_path, max_length=max_length, truncation_mode="keep_end")
    batch, expected = (next(iter(each.get_train_dataloader())) for each in (ours, theirs))
    assert expected["input_ids"].shape[1] == max_length
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    (pack,) = batch["packs"]
    labels = expected["input_ids"].masked_fill(expected["completion_mask"] == 0, -100)[:, 1:].flatten()
    assert torch.equal(labels[pack.cells], pack.targets[0])
    assert len(pack.cells) == (labels != -100).sum()
    assert_alike(ours, theirs)


def test_neftune_noise_is_trl_s(tmp_path, caplog):
    ours, theirs = both(tmp_path, neftune_noise_alpha=5.0)
    assert_alike(ours, theirs)
    assert "NEFTune draws its noise for the padded batch" in caplog.text


@pytest.mark.filterwarnings("ignore:`return_outputs=True`, and the logits:FutureWarning")  # TRL's, once it is used
def test_compute_metrics_sees_what_trl_shows_it(tmp_path):
    seen: list[dict[str, np.ndarray]] = []

    def measure(prediction):
        seen.append({"logits": prediction.predictions, "labels": prediction.label_ids})
        return {"mine": float(prediction.predictions.mean())}

    held_out = tiny_pairs(6, seed=9)
    ours, theirs = both(tmp_path, given={"eval_dataset": held_out, "compute_metrics": measure})
    found, expected = ours.evaluate(), theirs.evaluate()
    assert found["eval_mine"] == pytest.approx(expected["eval_mine"], abs=1e-5)
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-5)
    assert np.array_equal(seen[0]["labels"], seen[1]["labels"])
    assert seen[0]["logits"].shape == (*seen[0]["labels"].shape, VOCABULARY)
    assert np.allclose(seen[0]["logits"], seen[1]["logits"], atol=1e-4)
    assert ours.predict(ours.eval_dataset).metrics["test_mine"] == pytest.approx(expected["eval_mine"], abs=1e-5)


@pytest.mark.filterwarnings("ignore:`return_outputs=True`, and the logits:FutureWarning")
def test_the_best_model_by_a_metric_of_the_user_s_is_loaded_at_the_end(tmp_path):
    falling = itertools.count(0, -1)
    flags = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    flags |= {"load_best_model_at_end": True, "metric_for_best_model": "mine", "greater_is_better": True}
    given = {"eval_dataset": tiny_pairs(4, seed=9), "compute_metrics": lambda _: {"mine": next(falling)}}
    trainer = build(PreferenceTrainer, tmp_path, given=given, **flags)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    best = PeftModel.from_pretrained(tiny_model(), tmp_path / "checkpoint-1")
    last = PeftModel.from_pretrained(tiny_model(), tmp_path / "checkpoint-4")
    name = next(name for name, _ in best.named_parameters() if "lora_B" in name)
    assert torch.equal(trainer.model.get_parameter(name), best.get_parameter(name))
    assert not torch.equal(trainer.model.get_parameter(name), last.get_parameter(name))


def test_a_best_metric_that_evaluation_does_not_give_is_named(tmp_path):
    flags = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "mine", "save_strategy": "best"}
    trainer = build(PreferenceTrainer, tmp_path, given={"eval_dataset": tiny_pairs(4)}, **flags)
    with pytest.raises(UserError, match=r"metric_for_best_model: evaluation gives no 'mine'; choose from loss, "):
        trainer.train()


ADAPTERS = {
    "lora": lambda: LoraConfig(r=4, **TARGETS),
    "dora": lambda: LoraConfig(r=4, use_dora=True, **TARGETS),
    "saved": lambda: LoraConfig(r=4, modules_to_save=["norm"], **TARGETS),
    "hra": lambda: HRAConfig(r=4, **TARGETS),
    "ropo": lambda: RopoConfig(**TARGETS),
    "vera": lambda: VeraConfig(r=4, **TARGETS),
    "road": lambda: RoadConfig(group_size=8, **TARGETS),
    "ia3": lambda: IA3Config(feedforward_modules=[], **TARGETS),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "tokens": lambda: LoraConfig(r=4, trainable_token_indices=[5, 6], **TARGETS),
}


@pytest.mark.filterwarnings("ignore:Vera:UserWarning")
@pytest.mark.parametrize("method", ["dora", "vera", "road", "ia3", "tokens", "prompt", "prefix"])
def test_other_methods_of_peft_train_as_in_trl(tmp_path, method):
    trainers = []
    for trainer in (PreferenceTrainer, DPOTrainer):
        torch.manual_seed(3)  # of the adapter's own initial values
        trainers.append(build(trainer, tmp_path / trainer.__name__, peft_config=ADAPTERS[method](), learning_rate=1e-2))
    assert_alike(*trainers)


@pytest.mark.filterwarnings("ignore:Vera:UserWarning", "ignore:Adapter name 'ref' should not be contained:UserWarning")
@pytest.mark.parametrize("method", ADAPTERS)
def test_the_reference_of_an_adapter_trained_further_is_that_adapter(tmp_path, method):
    """For every method of PEFT: TRL's copy by names leaves out HRA's reflections, and the first loss is not ln 2."""
    torch.manual_seed(3)
    model = get_peft_model(tiny_model(), ADAPTERS[method]())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each.add_(0.3 * torch.randn(each.shape, generator=generator))
    plain = tiny_model()
    ids = torch.arange(3, 15)[None]
    before = model(ids).logits[:, -12:]
    assert (before - plain(ids).logits).abs().max() > 0.05, "the case is one of a trained adapter"
    trainer = build(PreferenceTrainer, tmp_path, model=model, peft_config=None, learning_rate=1e-3)
    assert torch.allclose(trainer.model.eval()(ids).logits[:, -12:], before, atol=1e-5)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] != pytest.approx(math.log(2), abs=1e-5)


def test_an_initialisation_that_changes_the_base_model_is_refused(tmp_path):
    """PiSSA takes its start out of the base weights: without the adapter the rest is no reference."""
    with pytest.raises(UserError, match="the reference would not be the model that was given"):
        build(PreferenceTrainer, tmp_path, peft_config=LoraConfig(r=4, init_lora_weights="pissa", **TARGETS))


@pytest.mark.filterwarnings("ignore:CPTConfig only supports:UserWarning")
@pytest.mark.parametrize("method", ["CPT", "ADAPTION_PROMPT"])
def test_an_adapter_that_gives_no_log_probs_is_refused(tmp_path, method):
    if method == "CPT":
        config = CPTConfig(task_type="CAUSAL_LM")
    else:
        config = AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM")
    with pytest.raises(UserError, match=f"a model with a {method} adapter gives no log-probs"):
        build(PreferenceTrainer, tmp_path, peft_config=config)


def test_a_method_that_peft_keeps_no_copy_of_is_not_trained_further(tmp_path):
    model = get_peft_model(tiny_model(), AdaLoraConfig(init_r=4, total_step=10, **TARGETS))
    with pytest.raises(UserError, match="no more than one AdaLoRA adapter"):
        build(PreferenceTrainer, tmp_path, model=model, peft_config=None)


def test_a_saved_initialisation_that_changes_the_base_model_is_not_trained_further(tmp_path):
    model = get_peft_model(tiny_model(), LoraConfig(r=4, init_lora_weights="pissa", **TARGETS))
    model.save_pretrained(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "saved", is_trainable=True)
    with pytest.raises(UserError, match=r"^model: this LORA adapter cannot be trained further .*'pissa'.*`ropo merge`"):
        build(PreferenceTrainer, tmp_path, model=loaded, peft_config=None)


def test_experts_that_trl_does_not_count_are_refused(tmp_path):
    """Not with a coefficient of 0: then TRL asks for no loss of theirs."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GraniteMoeConfig(
        vocab_size=64, pad_token_id=0, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, **sizes
    )
    adapter = {"peft_config": LoraConfig(r=2, **TARGETS)}
    with pytest.raises(UserError, match=r"router_aux_loss_coef: .* a granitemoe model's experts; give 0"):
        build(PreferenceTrainer, tmp_path, model=GraniteMoeForCausalLM(config), **adapter)
    model = GraniteMoeForCausalLM(config)
    trainer = build(PreferenceTrainer, tmp_path, model=model, router_aux_loss_coef=0.0, max_steps=1, **adapter)
    trainer.train()
    assert trainer.state.global_step == 1


def test_ranks_that_stay_as_they_are_is_said(tmp_path, caplog):
    build(PreferenceTrainer, tmp_path, peft_config=AdaLoraConfig(init_r=4, total_step=10, **TARGETS))
    assert "AdaLoRA: no trainer of TRL's calls update_and_allocate" in caplog.text
    assert "keeps init_r=4" in caplog.text


def test_an_adapter_that_does_not_start_as_its_model_is_said(tmp_path, caplog):
    with pytest.warns(UserWarning, match="odd"):  # PEFT's
        build(PreferenceTrainer, tmp_path, peft_config=HRAConfig(r=3, **TARGETS))
    assert "the HRA adapter does not start at the model that it is put on" in caplog.text


@pytest.mark.parametrize("name", ["other", "two"])
def test_an_adapter_that_trl_would_not_train_is_refused(tmp_path, name):
    """TRL copies `default` as the reference and trains whatever is active."""
    model = get_peft_model(tiny_model(), LoraConfig(**LORA), adapter_name="default" if name == "two" else name)
    if name == "two":
        model.add_adapter("more", LoraConfig(**LORA))
        model.set_adapter("more")
    with pytest.raises(UserError, match=r"its active adapter is '(other|more)', and TRL trains the one named"):
        build(PreferenceTrainer, tmp_path, model=model, peft_config=None)


def test_an_adapter_loaded_for_inference_is_not_trained(tmp_path):
    get_peft_model(tiny_model(), RopoConfig(**TARGETS)).save_pretrained(tmp_path / "adapter")
    frozen = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    trainer = build(PreferenceTrainer, tmp_path, model=frozen, peft_config=None)
    with pytest.raises(UserError, match=r"none of its weights is trainable; .*is_trainable=True"):
        trainer.train()


def test_an_adapter_that_transformers_loaded_is_refused(tmp_path):
    model = tiny_model()
    model.add_adapter(LoraConfig(**LORA))
    with pytest.raises(UserError, match="transformers has put an adapter into it"):
        build(PreferenceTrainer, tmp_path, model=model, peft_config=None)


def test_a_reference_of_the_user_s_is_taken_with_an_adapter(tmp_path):
    ours, theirs = (
        build(trainer, tmp_path, given={"ref_model": tiny_model(seed=5)}) for trainer in (PreferenceTrainer, DPOTrainer)
    )
    assert_alike(ours, theirs)
    assert logged(ours, "loss")[0] != pytest.approx(math.log(2), abs=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given": {"ref_model": "some/model"}}, "ref_model: must be a model, not a name"),
        (
            {"given": {"ref_model": get_peft_model(tiny_model(), LoraConfig(**LORA))}},
            "ref_model: must be a model, not an adapter on a model",
        ),
        (
            {"sync_ref_model": True, "given": {"ref_model": tiny_model(seed=5)}},
            "sync_ref_model: an adapter's reference that moves is a copy of the adapter",
        ),
        ({"eval_on_start": True}, "eval_on_start: there is nothing to evaluate"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy: group_by_length needs one length"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"reentrant": True}},
            r"gradient_checkpointing_kwargs {'reentrant': True}: .*unexpected",
        ),
        ({"adam_beta1": 2.0}, "adam_beta1: must be in"),
        ({"optim": "paged_adamw_8bit"}, "optim paged_adamw_8bit: cannot be made"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type warmup_stable_decay: cannot be made"),
    ],
)
def test_what_trl_refuses_later_is_refused_before(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build(PreferenceTrainer, tmp_path, **changes)


def test_an_adapter_on_top_of_an_adapter_is_refused_as_by_trl(tmp_path):
    for trainer in (PreferenceTrainer, DPOTrainer):
        with pytest.raises(ValueError, match="`PeftModel` instance together with a `peft_config`"):
            build(trainer, tmp_path, model=get_peft_model(tiny_model(), LoraConfig(**LORA)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": ["sigmod"]}, "loss_type: there is no 'sigmod'; did you mean 'sigmoid'"),
        ({"f_divergence_type": "kl"}, "f_divergence_type: there is no 'kl'"),
        ({"truncation_mode": "keep_middle"}, "truncation_mode: there is no 'keep_middle'"),
        ({"optim": "adamw_troch"}, "optim: there is no 'adamw_troch'; did you mean 'adamw_torch'"),
        ({"report_to": "wandbb"}, "report_to: there is no 'wandbb'; did you mean 'wandb'"),
        ({"report_to": ["none", "clearml"]}, "report_to: needs the library clearml"),
        ({"loss_type": ["aot"], "use_weighting": True}, "use_weighting: cannot be combined with the loss aot"),
        ({"loss_type": ["sigmoid", "hinge"], "use_weighting": True}, "use_weighting: cannot be combined with hinge"),
        ({"loss_type": ["sigmoid", "sft"], "use_weighting": True}, "use_weighting: cannot be combined with sft"),
        ({"rpo_alpha": 1.0, "use_weighting": True}, "use_weighting: cannot be combined with rpo_alpha"),
        ({"loss_type": ["exo_pair"]}, "label_smoothing: must be above 0 with the loss exo_pair, got 0.0"),
        ({"sync_ref_model": True, "precompute_ref_log_probs": True}, "sync_ref_model: cannot be combined"),
        ({"sync_ref_model": True, "ref_model_mixup_alpha": 0.0}, r"ref_model_mixup_alpha: must be in \(0, 1\], got 0"),
        ({"sync_ref_model": True, "ref_model_sync_steps": 0}, "ref_model_sync_steps: must be at least 1, got 0"),
        ({"push_to_hub": True}, "push_to_hub: cannot be done without the hub, and HF_HUB_OFFLINE is set"),
        ({"use_liger_kernel": True}, "use_liger_kernel: needs the library liger-kernel"),
        ({"eval_accumulation_steps": 0}, "eval_accumulation_steps: must be above 0, got 0"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers: must not be negative, got -1"),
        ({"activation_offloading": True}, "activation_offloading: moves activations"),
        ({"bf16_full_eval": True}, "bf16_full_eval: would narrow the weights before they are trained, .*; give --bf16"),
        ({"fp16_full_eval": True}, "fp16_full_eval: would narrow the weights before they are trained"),
        ({"fp16": True}, "fp16: is not computed in on a CPU, where accelerate keeps float32; give --bf16"),
        *(
            ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, weight]}, f"loss_weights: must each .* {weight}]")
            for weight in (-1.0, 0.0, math.inf, math.nan)
        ),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": math.nan}}, "lr_scheduler_kwargs: must"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": Infinity}'}, "lr_scheduler_kwargs: m"),
        *(
            ({"loss_type": [loss], "label_smoothing": 0.1}, "label_smoothing: is read by .* got 0.1; give .* cdpo")
            for loss in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "discopop", "sft")
        ),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: .* got 0.1; give label_smoothing with"),
        ({"simpo_gamma": 1.0}, "simpo_gamma: is read by the loss simpo only, got 1.0"),
        ({"discopop_tau": 0.1}, "discopop_tau: is read by the loss discopop only, got 0.1"),
        (
            {"f_alpha_divergence_coef": 0.7},
            "f_alpha_divergence_coef: is read with --f_divergence_type alpha",
        ),
        ({"loss_type": ["sft"], "f_divergence_type": "forward_kl"}, "f_divergence_type: is not read by the loss sft"),
        ({"loss_type": ["sft"], "ld_alpha": 0.5}, "ld_alpha: is not read by the loss sft, got 0.5"),
        ({"loss_type": ["sft"], "beta_final": 0.5}, "beta_final: is not read by the loss sft"),
        ({"ref_model_mixup_alpha": 0.5}, "ref_model_mixup_alpha: is of a reference that moves, got 0.5; give --sync"),
        ({"ref_model_sync_steps": 8}, "ref_model_sync_steps: is of a reference that moves, got 8; give --sync"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "load_best_model_at_end: needs evaluation during"),
        ({"metric_for_best_model": "loss", "save_strategy": "best"}, "metric_for_best_model: needs evaluation during"),
        ({"greater_is_better": False}, "greater_is_better: needs evaluation during training, got False"),
        ({"eval_delay": 3}, "eval_delay: needs evaluation during training, got 3"),
        ({"eval_steps": 3}, "eval_steps: needs evaluation every so many steps, got 3; give --eval_strategy steps"),
        ({"eval_steps": 3, "eval_strategy": "epoch"}, "eval_steps: needs evaluation every so many steps"),
        ({"save_steps": 3, "save_strategy": "no"}, "save_steps: needs checkpoints every so many steps, got 3"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "warmup_steps: is not read by .*constant_with_warmup"),
        (
            {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"num_cycles": 2}},
            "lr_scheduler_kwargs: is not read by this lr_scheduler_type",
        ),
        (
            {"dataloader_persistent_workers": True},
            "dataloader_persistent_workers: is of processes that load data;",
        ),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor: is of processes that load data, got 2"),
        *(
            ({name: "fork"}, f"{name}: is of processes that load data, got fork")
            for name in PreferenceConfig.__dataclass_fields__
            if name == "dataloader_multiprocessing_context"  # which transformers 5.6 has not
        ),
    ],
)
def test_options_are_refused_where_they_enter(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("ropo.training.config.is_liger_kernel_available", lambda: False)
    monkeypatch.setattr("ropo.training.config.integration_utils.is_clearml_available", lambda: False)
    with pytest.raises(UserError, match=message):
        PreferenceConfig(str(tmp_path), use_cpu=True, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        *({"loss_type": [loss], "label_smoothing": 0.1} for loss in ("exo_pair", "robust", "aot", "aot_unpaired")),
        *({"loss_type": [loss], "label_smoothing": 0.1} for loss in ("cdpo", "simpo")),
        {"loss_type": ["simpo"], "simpo_gamma": 1.0},
        {"loss_type": ["sft", "discopop"], "discopop_tau": 0.1, "ld_alpha": 0.5, "loss_weights": [0.5, 2]},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        {"sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 8},
        {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 1, "load_best_model_at_end": True, "save_steps": 4},
        {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "loss"},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3},
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": 2}'},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 2},
    ],
)
def test_options_that_are_read_are_taken(tmp_path, changes):
    config = PreferenceConfig(str(tmp_path), use_cpu=True, **changes)
    changes.pop("lr_scheduler_kwargs", None)  # read from JSON
    assert changes
    assert {name: getattr(config, name) for name in changes} == changes


def test_every_loss_that_reads_label_smoothing_is_known():
    source = inspect.getsource(DPOTrainer._compute_loss)
    parts = re.split(r'if loss_type == "(\w+)":', source)
    readers = {name for name, part in zip(parts[1::2], parts[2::2], strict=True) if "label_smoothing" in part}
    assert len(parts) > 20
    assert readers | set(OWN_LOSSES) == set(SMOOTHED_LOSSES)


def test_every_tracker_of_transformers_is_looked_up(monkeypatch):
    from ropo.training.config import check_tracker, integration_utils

    assert len(integration_utils.INTEGRATION_TO_CALLBACK) > 10
    for name in [each for each in vars(integration_utils) if each.startswith("is_") and each.endswith("_available")]:
        monkeypatch.setattr(integration_utils, name, lambda: False)
    for name in integration_utils.INTEGRATION_TO_CALLBACK:
        with pytest.raises(UserError, match=f"report_to: needs the library {name}, which is not installed"):
            check_tracker(name)


def stream(pairs: Dataset) -> IterableDataset:
    return pairs.to_iterable_dataset()


def test_precomputing_on_a_stream_is_refused_as_by_trl(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for trainer in (PreferenceTrainer, DPOTrainer):
        with pytest.raises(ValueError, match=r"precompute_ref_log_probs.*[sS]tream|not supported with IterableDataset"):
            build(trainer, tmp_path, data=stream(tiny_pairs(8)), precompute_ref_log_probs=True)
    made = build(PreferenceTrainer, tmp_path, precompute_ref_log_probs=True)
    with pytest.raises(UserError, match="precompute_ref_log_probs: the eval data is a stream"):
        made.evaluate(stream(tiny_pairs(4)))


def test_a_stream_is_trained_and_evaluated_as_by_trl(tmp_path):
    ours, theirs = both(tmp_path, data=stream(tiny_pairs(24)))
    assert_alike(ours, theirs)
    held_out = tiny_pairs(4, seed=9)
    found, expected = (each.evaluate(stream(held_out)) for each in (ours, theirs))
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-4)


def test_a_stream_needs_its_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="max_steps"):
        build(PreferenceTrainer, tmp_path, data=stream(tiny_pairs(8)), max_steps=-1)


def test_a_stream_of_which_nothing_is_left_is_no_training(tmp_path):
    trainer = build(PreferenceTrainer, tmp_path, data=stream(tiny_pairs(8)), max_length=4)
    with pytest.raises(UserError, match="train data: the stream holds no pair that can be trained on"):
        trainer.train()


@pytest.mark.parametrize("steps", [3, -1])
def test_a_run_without_a_step_is_refused_before_training(tmp_path, steps):
    trainer = build(
        PreferenceTrainer, tmp_path, per_device_train_batch_size=64, dataloader_drop_last=True, max_steps=steps
    )
    with pytest.raises(UserError, match="24 pairs do not fill one batch of 64"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(UserError, match="max_steps: 0 trains nothing"):
        build(PreferenceTrainer, tmp_path, max_steps=0).train()


def test_data_of_which_nothing_is_left_are_refused(tmp_path):
    with pytest.raises(UserError, match="train data: holds no record"):
        build(PreferenceTrainer, tmp_path, data=tiny_pairs(2).select([]))
    with pytest.raises(UserError, match=r"train data: none of its 2 record\(s\) can be trained on"):
        build(PreferenceTrainer, tmp_path, data=tiny_pairs(2), max_length=3)
    with pytest.raises(UserError, match="eval data: holds no record"):
        build(PreferenceTrainer, tmp_path).evaluate(tiny_pairs(2).select([]))


class Processor(ProcessorMixin):
    """Answer as the processors of vision-language models do: batched, and with a tokenizer inside."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.chat_template = tokenizer.chat_template

    @classmethod
    def get_attributes(cls):
        return ["tokenizer"]

    def __call__(self, text=None, **kwargs):
        return {name: [values] for name, values in self.tokenizer(text).items()}

    def apply_chat_template(self, conversation, **kwargs):
        turns = [{**turn, "content": turn["content"][0]["text"]} for turn in conversation]
        return {name: [values] for name, values in self.tokenizer.apply_chat_template(turns, **kwargs).items()}


def test_a_processor_serves_as_a_tokenizer(tmp_path):
    ours, theirs = (
        trainer(
            tiny_model(),
            args=config(**options(tmp_path, max_steps=4, **({} if config is PreferenceConfig else PLAIN))),
            train_dataset=tiny_pairs(24),
            processing_class=Processor(tiny_tokenizer()),
            peft_config=LoraConfig(**LORA),
        )
        for trainer, config in ((PreferenceTrainer, PreferenceConfig), (DPOTrainer, DPOConfig))
    )
    assert next(iter(ours.get_train_dataloader()))["packs"]
    assert_alike(ours, theirs)


WRONG = {
    "train_dataset": {"train_dataset": None},
    "kind of data": {"train_dataset": [{"prompt": "w1", "chosen": "w2", "rejected": "w3"}]},
    "processing_class": {"processing_class": "some/tokenizer"},
    "peft_config": {"peft_config": {"r": 4}},
    "quantization_config": {"quantization_config": object()},
    "pad_token": {"processing_class": None},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arguments_that_trl_refuses_are_refused_alike(tmp_path, wrong):
    said = []
    for trainer, config in ((PreferenceTrainer, PreferenceConfig), (DPOTrainer, DPOConfig)):
        given = {"train_dataset": tiny_pairs(4), "processing_class": tiny_tokenizer(), **WRONG[wrong]}
        args = config(**options(tmp_path, **({} if config is PreferenceConfig else PLAIN)))
        with pytest.raises((ValueError, TypeError, OSError)) as error:
            trainer(tiny_model(), args=args, **given)
        said.append(str(error.value).replace("PreferenceConfig", "DPOConfig"))
    assert said[0] == said[1]


def test_a_model_is_no_reference_of_itself(tmp_path):
    for trainer in (PreferenceTrainer, DPOTrainer):
        model = tiny_model()
        with pytest.raises(ValueError, match="`model` and `ref_model` cannot be the same object"):
            build(trainer, tmp_path, model=model, peft_config=None, given={"ref_model": model})


def test_what_train_does_not_know_is_refused_as_by_trl(tmp_path):
    for trainer in both(tmp_path):
        with pytest.raises(TypeError, match="nonsense"):
            trainer.train(nonsense=1)
        with pytest.raises(ValueError, match=r"(?i)no .*checkpoint"):
            trainer.train(resume_from_checkpoint=True)


def test_the_table_of_overrides_is_complete():
    """Every method that replaces one of TRL's or transformers' stands in CONTRIBUTING.md, and no other."""
    above = {name for each in DPOTrainer.__mro__[:-1] for name in vars(each)}
    inherited = {"__module__", "__doc__", "__annotations__"}
    overrides = {name for name in vars(PreferenceTrainer) if name in above} - inherited
    assert len(overrides) > 20
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.split("| method | why |")[1].split("\n\n")[0].splitlines()[2:]
    assert overrides == {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
