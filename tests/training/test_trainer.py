"""`PreferenceTrainer` against `trl.DPOTrainer`, on the same batches."""

from __future__ import annotations

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig

from ropo.core.errors import UserError
from ropo.lm.packing import attention
from ropo.training.config import PreferenceConfig
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import SHAPE, tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.trainers import LORA, STEPS, logged, options, ours, theirs

LOSS_TOLERANCE = 1e-3  # the bound over the trajectory; measured 1e-6


@pytest.fixture
def packed_calls(monkeypatch) -> list[int]:
    """Count the segments of attention calls that run on a pack."""
    calls: list[int] = []
    attend = attention.attend_segments

    def counted(query, key, value, segments, scaling):
        calls.append(len(segments))
        return attend(query, key, value, segments, scaling)

    monkeypatch.setattr(attention, "attend_segments", counted)
    return calls


@pytest.mark.parametrize(
    "loss",
    [
        {"loss_type": ["sigmoid"]},
        {"loss_type": ["ipo"]},
        {"loss_type": ["hinge", "sft"], "loss_weights": [1.0, 0.2]},
        {"loss_type": ["sigmoid_norm"], "use_weighting": True},
        {"loss_type": ["apo_zero"], "ld_alpha": 0.5},
        {"loss_type": ["aot"]},
    ],
    ids=lambda loss: "+".join(loss["loss_type"]),
)
def test_trajectory_equals_trl(loss, tmp_path, packed_calls):
    packed, padded = ours(tmp_path / "ours", **loss), theirs(tmp_path / "theirs", **loss)
    packed.train()
    assert packed_calls
    packed_calls.clear()
    padded.train()
    assert not packed_calls
    for name in (
        "loss",
        "logps/chosen",
        "rewards/margins",
        "entropy",
        "logits/rejected",
        "mean_token_accuracy",
        "num_tokens",
    ):
        found, expected = logged(packed, name), logged(padded, name)
        assert len(found) == len(expected) == STEPS
        assert found == pytest.approx(expected, rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE), name
    assert len(set(logged(padded, "loss"))) > 1


def test_full_fine_tuning_equals_trl(tmp_path, packed_calls):
    def options_of():
        return {"lora": False, "ref_model": tiny_model(), "learning_rate": 1e-3, "max_steps": 6}

    packed, padded = ours(tmp_path / "ours", **options_of()), theirs(tmp_path / "theirs", **options_of())
    packed.train()
    assert packed_calls
    padded.train()
    assert logged(packed, "loss") == pytest.approx(logged(padded, "loss"), abs=LOSS_TOLERANCE)
    for name, weight in padded.model.named_parameters():
        assert torch.allclose(packed.model.get_parameter(name), weight, atol=1e-4), name


def test_the_reference_of_full_fine_tuning_is_the_model_that_was_given(tmp_path):
    """And not the checkpoint that it was loaded from, which TRL would read again."""
    tiny_model().save_pretrained(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(2)
    trainer = ours(tmp_path / "out", model=model, lora=False, max_steps=2, learning_rate=1e-2)
    before = [each.clone() for each in trainer.ref_model.parameters()]
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert logged(trainer, "loss")[1] != pytest.approx(math.log(2), abs=1e-3)
    assert all(map(torch.equal, before, trainer.ref_model.parameters()))


def test_first_loss_is_ln_2_also_when_training_continues_from_an_adapter(tmp_path):
    def adapted():
        torch.manual_seed(3)
        return get_peft_model(tiny_model(), LoraConfig(**LORA, init_lora_weights=False))

    packed, padded = (
        make(tmp_path / name, model=adapted(), lora=False, max_steps=3)
        for make, name in ((ours, "ours"), (theirs, "theirs"))
    )
    assert "ref" in packed.model.peft_config
    packed.train()
    padded.train()
    assert logged(packed, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert logged(packed, "loss") == pytest.approx(logged(padded, "loss"), abs=LOSS_TOLERANCE)


def test_accumulating_eight_batches_of_one_equals_one_batch_of_eight(tmp_path):
    shapes = ((8, 1), (1, 8))
    trainers = [
        ours(
            tmp_path / str(batch),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=3,
            train_sampling_strategy="sequential",
        )
        for batch, steps in shapes
    ]
    for trainer in trainers:
        trainer.train()
    one, eight = trainers
    assert logged(one, "loss") == pytest.approx(logged(eight, "loss"), abs=1e-5)
    assert logged(one, "grad_norm") == pytest.approx(logged(eight, "grad_norm"), rel=1e-4)


def test_a_token_budget_changes_memory_not_results(tmp_path):
    whole = ours(tmp_path / "whole", max_steps=5)
    parts = ours(tmp_path / "parts", max_steps=5, tokens_per_step=60)
    batch = next(iter(parts.get_train_dataloader()))
    assert len(batch["packs"]) > 1
    whole.train()
    parts.train()
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), abs=1e-5)
    assert logged(parts, "grad_norm") == pytest.approx(logged(whole, "grad_norm"), rel=1e-4)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_in_the_trainer(reentrant, tmp_path):
    changes = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    plain, checkpointed = ours(tmp_path / "a", max_steps=3), ours(tmp_path / "b", max_steps=3, **changes)
    plain.train()
    checkpointed.train()
    assert logged(checkpointed, "grad_norm") == pytest.approx(logged(plain, "grad_norm"), rel=1e-4)


def test_evaluate_and_predict_are_packed(tmp_path, packed_calls):
    held_out = tiny_pairs(6, seed=9)
    packed, padded = ours(tmp_path / "ours", eval_dataset=held_out), theirs(tmp_path / "theirs", eval_dataset=held_out)
    found, expected = packed.evaluate(), padded.evaluate()
    assert packed_calls
    for name in ("eval_loss", "eval_logps/chosen", "eval_rewards/margins", "eval_mean_token_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name
    packed_calls.clear()
    predicted = packed.predict(packed.eval_dataset)
    assert packed_calls
    assert predicted.predictions.shape == (6, 2)
    assert predicted.predictions.mean(axis=0).tolist() == pytest.approx(
        [found["eval_logps/chosen"], found["eval_logps/rejected"]],
        rel=0.2,  # evaluation averages over batches of 4 and 2 pairs, this over pairs
    )
    assert predicted.metrics["test_loss"] == pytest.approx(found["eval_loss"], abs=1e-5)


def test_tokens_per_second_counts_unique_tokens(tmp_path, monkeypatch):
    ticks = itertools.count(0, 2)  # seconds: two from the first batch after a log to the next log
    monkeypatch.setattr("ropo.training.packing.packer.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    pairs = tiny_pairs(12)
    distinct = pairs.select([number for number in range(12) if number % 4 != 3])  # the fourth repeats a prompt
    settings = {"data": distinct, "max_steps": 3, "per_device_train_batch_size": 3}
    trainer = ours(tmp_path, **settings)
    trainer.train()
    speeds, ratios = logged(trainer, "unique_tokens_per_second"), logged(trainer, "packing_ratio")
    assert len(speeds) == len(ratios) == 3
    records = trainer.train_dataset
    unique = [len(each["prompt_ids"]) - 1 + len(each["chosen_ids"]) + len(each["rejected_ids"]) for each in records]
    assert 2 * sum(speeds) == pytest.approx(sum(unique))
    padded = ours(tmp_path / "padded", packing=False, **settings)
    padded.train()
    assert logged(padded, "packing_ratio") == [1.0, 1.0, 1.0]
    grid = [speed * ratio for speed, ratio in zip(speeds, ratios, strict=True)]
    assert logged(padded, "unique_tokens_per_second") == pytest.approx(grid)
    assert all(ratio > 1.2 for ratio in ratios)


def test_a_model_that_cannot_be_packed_is_trained_padded_with_one_line(tmp_path, caplog):
    config = MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, vocab_size=64, pad_token_id=0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    trainer = ours(tmp_path, model=model, ref_model=copy.deepcopy(model), lora=False, max_steps=1)
    trainer.train()
    lines = [record.message for record in caplog.records if record.name.startswith("ropo")]
    assert len(lines) == 1
    assert "training padded: MambaForCausalLM cannot be packed" in lines[0]
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)


def test_packing_can_be_switched_off(tmp_path, packed_calls, caplog):
    ours(tmp_path, packing=False, max_steps=1).train()
    assert not packed_calls
    assert not [record for record in caplog.records if record.name.startswith("ropo")]


@pytest.mark.parametrize("lora", [True, False], ids=["adapter", "full"])
def test_a_name_trains_as_the_model_of_that_name(tmp_path, lora, packed_calls):
    folder = str(tmp_path / "model")
    tiny_model().save_pretrained(folder)
    named = ours(tmp_path / "a", model=folder, lora=lora, max_steps=2)
    given = ours(tmp_path / "b", model=AutoModelForCausalLM.from_pretrained(folder), lora=lora, max_steps=2)
    assert named.model.dtype == given.model.dtype == torch.float32
    for trainer in (named, given):
        trainer.train()
    assert packed_calls
    assert logged(named, "loss") == logged(given, "loss")
    assert logged(named, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert logged(named, "loss")[1] != logged(named, "loss")[0]
    for name, weight in given.model.named_parameters():
        assert torch.equal(named.model.get_parameter(name), weight), name


def test_a_name_is_checked_as_the_model_of_that_name(tmp_path):
    torch.manual_seed(0)
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, "vocab_size": 40})).save_pretrained(tmp_path / "small")
    get_peft_model(tiny_model(), LoraConfig(**LORA)).save_pretrained(tmp_path / "adapter")
    positions = tiny_model("gpt2").config.n_positions
    lora = LoraConfig(**{**LORA, "target_modules": ["c_attn"], "fan_in_fan_out": True})

    def trainer_of(model, adapter=lora):
        return PreferenceTrainer(
            model,
            args=PreferenceConfig(**options(tmp_path, max_length=positions + 1)),
            train_dataset=tiny_pairs(8),
            processing_class=tiny_tokenizer(),
            peft_config=adapter,
        )

    assert trainer_of(str(tmp_path / "model")).args.max_length == positions
    with pytest.raises(UserError, match=r"small: has embeddings for 40 tokens"):
        trainer_of(str(tmp_path / "small"), LoraConfig(**LORA))
    with pytest.raises(UserError, match=r"model .*adapter: is an adapter, and TRL loads models alone; load it with"):
        trainer_of(str(tmp_path / "adapter"), None)
    with pytest.raises(UserError, match=r"model tiny\.gguf: TRL loads no \.gguf file"):
        trainer_of("tiny.gguf")
    with pytest.raises(UserError, match="peft_config: init_lora_weights='pissa' changes the base model"):
        trainer_of(str(tmp_path / "model"), LoraConfig(**LORA, init_lora_weights="pissa"))


def strings(*pairs) -> Dataset:
    return Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs])


def messages(caplog) -> str:
    return "\n".join(record.message for record in caplog.records if record.name.startswith("ropo"))


def test_records_without_an_answer_after_truncation_are_named_and_skipped(tmp_path, caplog):
    data = strings(("w1 w2 ", "w3", "w4"), ("w1 w2 w3 w4 w5 w6 ", "w3", "w4"), ("", "w3 w4", "w5"))
    trainer = ours(tmp_path, data=data, max_length=6)
    assert len(trainer.train_dataset) == 1
    assert "train data, 1 record(s) (1): no answer is left: the prompt fills max_length=6; skipped" in messages(caplog)
    assert "train data, 1 record(s) (2): the prompt or an answer has no tokens; skipped" in messages(caplog)


def test_records_beyond_the_token_budget_are_named_and_skipped(tmp_path, caplog):
    data = strings(("w1 w2 ", "w3", "w4"), ("w1 ", "w2 w3 w4 w5 w6 w7", "w2 w3 w4 w5 w6"), ("w1 ", "w5", "w6"))
    trainer = ours(tmp_path, data=data, tokens_per_step=12)
    assert len(trainer.train_dataset) == 2
    assert "train data, 1 record(s) (1): prompt and answers exceed tokens_per_step=12; skipped" in messages(caplog)
    assert len(ours(tmp_path, data=data, tokens_per_step=13).train_dataset) == 3  # 0 + 7 + 6, with the end tokens


def test_prompts_that_the_template_rewrites_are_named_and_trained(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<assistant> {% endif", "<assistant> w9 {% endif")
    trainer = PreferenceTrainer(
        tiny_model(),
        args=PreferenceConfig(**options(tmp_path, max_steps=1)),
        train_dataset=tiny_pairs(7),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA),
    )
    assert len(trainer.train_dataset) == 7
    assert "train data, 7 record(s) (0, 1, 2, 3, 4, ...): the tokens of the prompt are not a prefix" in messages(caplog)
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)


def test_prompts_that_are_prefixes_are_not_reported(tmp_path, caplog):
    ours(tmp_path)
    assert messages(caplog) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta", 0.0),
        ("learning_rate", -1e-3),
        ("max_length", 1),
        ("tokens_per_step", 1),
        ("label_smoothing", 0.5),
        ("ld_alpha", 1.5),
    ],
)
def test_options_that_break_their_rule_are_named(field, value, tmp_path):
    with pytest.raises(UserError, match=rf"^{field}: must .*, got {value}; "):
        PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, **{field: value})


def test_defaults_need_no_gpu_and_send_nothing(tmp_path):
    config = PreferenceConfig(output_dir=str(tmp_path), use_cpu=True)
    assert not config.bf16
    assert not config.gradient_checkpointing
    assert not config.dataloader_pin_memory
    assert config.report_to == []
    assert config.packing


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the device here is no CPU")
def test_bf16_needs_no_second_option_on_a_cpu(tmp_path):
    assert PreferenceConfig(output_dir=str(tmp_path), bf16=True).use_cpu
