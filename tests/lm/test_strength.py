"""`DIR@0.5`: how it is read, what it loads, and which methods have a strength."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    HRAConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from torch import nn

from ropo import RopoConfig
from ropo.core.errors import UserError
from ropo.evaluation.contestants import parse_contestants
from ropo.lm.adapters import adapter_base, is_adapter, load_adapter
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import trained_with
from ropo.lm.loading import load_policy, load_tokenizer
from ropo.lm.sampling import model_name
from ropo.lm.strength import check_strength, split_strength, with_strength
from tests.tiny.adapted import tiny_llama, tokens
from tests.tiny.tokenizer import tiny_tokenizer

ADDED = {
    "lora": lambda **options: LoraConfig(init_lora_weights=False, r=4, lora_alpha=12, **options),
    "rslora": lambda **options: LoraConfig(init_lora_weights=False, use_rslora=True, **options),
    "adalora": lambda **options: AdaLoraConfig(init_lora_weights=False, total_step=10, **options),
    "loha": lambda **options: LoHaConfig(init_weights=False, **options),
    "lokr": lambda **options: LoKrConfig(init_weights=False, **options),
}
OTHERS = {
    "oft": lambda **options: OFTConfig(oft_block_size=8, **options),
    "boft": lambda **options: BOFTConfig(boft_block_size=4, **options),
    "hra": lambda **options: HRAConfig(**options),
    "ia3": lambda **options: IA3Config(feedforward_modules=[], **options),
    "vera": lambda **options: VeraConfig(r=4, **options),
}


def save(folder, config, name="adapter") -> str:
    """Save an adapter of random weights on a base model beside it, and return its folder."""
    if not (folder / "base").exists():
        tiny_llama().save_pretrained(folder / "base")
        tiny_tokenizer().save_pretrained(folder / "base")
    torch.manual_seed(3)
    model = get_peft_model(tiny_llama(), config)
    for part_name, part in model.named_parameters():
        if part.requires_grad and isinstance(config, HRAConfig | OFTConfig):
            nn.init.normal_(part, std=0.3)
        assert part.requires_grad or "lora" not in part_name
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / name)
    return str(folder / name)


def ropo(folder, name="adapter", **options) -> str:
    return save(folder, RopoConfig(task_type="CAUSAL_LM", init_weights=False, **options), name)


def linear(make, **options):
    return make(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **options)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=tokens()).logits


def weights(model) -> dict[str, torch.Tensor]:
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return {name: part for name, part in merged.named_parameters() if "q_proj" in name or "v_proj" in name}


def test_a_folders_own_name_goes_first(tmp_path):
    adapter = ropo(tmp_path)
    assert split_strength(f"{adapter}@0.5") == (adapter, 0.5)
    assert split_strength(f"{adapter}/@2") == (f"{adapter}/", 2.0)
    other = ropo(tmp_path, "adapter@0.5", magnitude=False)
    assert split_strength(other) == (other, None)
    assert split_strength(f"{other}@1") == (other, 1.0)
    assert split_strength(with_strength(adapter, "0.5")) == (f"{adapter}/", 0.5)  # and not the folder of that name
    for named in ("org/model@main", f"{tmp_path}/none@0.5", "@0.5", "org/model", adapter, f"{adapter}@home/run"):
        assert split_strength(named) == (named, None)


@pytest.mark.parametrize("value", ["-0.1", "2.1", "nan", "inf", "-inf", "much", "", "0.5x", "1e400", "0,5"])
def test_what_is_no_strength(tmp_path, value):
    adapter = ropo(tmp_path)
    rule = (
        rf"^adapter {adapter}@{value}: strength: must be a number from 0 \(the base model\) to 2, got '{value}'; 1 is"
    )
    for read in (is_adapter, load_policy, load_tokenizer, fingerprint_source, adapter_base, model_name):
        with pytest.raises(UserError, match=rule) as error:
            read(f"{adapter}@{value}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [None, True, [0.5], math.nan, -1, 3, "x"])
def test_only_numbers_and_texts_that_are_some(value):
    with pytest.raises(UserError, match=r"^strength: must be a number"):
        check_strength(value)


@pytest.mark.parametrize("value", [0, 1, 2, 0.5, "0", "0.5", "2.0", "5e-1"])
def test_what_is_a_strength(value):
    assert check_strength(value) == float(value)


def test_a_stored_strength_that_is_none(tmp_path):
    adapter = ropo(tmp_path)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "strength": 7}))
    with pytest.raises(
        UserError, match=rf"^adapter {adapter}: its adapter_config.json cannot be read \(strength: must"
    ):
        load_policy(adapter)


def test_a_plain_model_has_none(tmp_path):
    ropo(tmp_path)
    with pytest.raises(
        UserError, match=rf"^model {tmp_path}/base@0.5: {tmp_path}/base is no PEFT adapter, and only an"
    ):
        load_policy(f"{tmp_path}/base@0.5")
    with pytest.raises(UserError, match="names a strength already, and --strength another; give one of them"):
        with_strength(f"{tmp_path}/adapter@0.5", "0.7")


def test_a_rotation_is_loaded_at_a_strength(tmp_path):
    adapter = ropo(tmp_path)
    model = load_policy(adapter)
    for strength in (0, 0.3, 1, 2):
        model.set_strength(strength)
        assert torch.equal(logits(load_policy(f"{adapter}@{strength}")), logits(model))
    model.set_strength(0.25)
    model.save_pretrained(tmp_path / "quarter")
    quarter = str(tmp_path / "quarter")
    assert torch.equal(logits(load_policy(quarter)), logits(model))
    model.set_strength(1)
    assert torch.equal(logits(load_policy(f"{quarter}@1")), logits(model))  # what is asked for, whatever was saved
    assert load_tokenizer(f"{adapter}@0.5").get_vocab() == load_tokenizer(f"{tmp_path}/base").get_vocab()
    assert adapter_base(f"{adapter}@0.5") == f"{tmp_path}/base"


@pytest.mark.parametrize("method", ADDED)
def test_an_added_change_is_added_so_many_times(tmp_path, method):
    adapter = save(tmp_path, linear(ADDED[method]))
    base, whole = weights(tiny_llama()), weights(load_policy(adapter))
    assert len(base) == 4
    for strength in (0.0, 0.4, 1.0, 1.7):
        found = weights(load_policy(f"{adapter}@{strength}"))
        for name, weight in base.items():
            change = (whole[name] - weight).double()
            assert change.norm() > 1e-3 * weight.norm()
            expected = weight.double() + strength * change
            torch.testing.assert_close(found[name].double(), expected, atol=1e-6, rtol=1e-5)
            if strength in (0.0, 1.0):
                assert torch.equal(found[name], weight if strength == 0 else whole[name])


@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension:UserWarning", "ignore:.*BOFT.*:UserWarning")
@pytest.mark.parametrize("method", OTHERS)
def test_methods_without_one_are_refused(tmp_path, method):
    adapter = save(tmp_path, linear(OTHERS[method]))
    with pytest.raises(
        UserError, match=rf"^adapter {adapter}@0.5: strength: PEFT scales no {method.upper()} adapter; "
    ):
        load_policy(f"{adapter}@0.5")
    assert torch.equal(logits(load_policy(f"{adapter}@1")), logits(load_policy(adapter)))


@pytest.mark.filterwarnings("ignore:.*requires you to convert:UserWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "DoraLinearVariant is no multiple of a change; only plain LoRA has a strength"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save were trained in full and would act at any strength"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices were trained in full"),
        ({"bias": "lora_only"}, "bias='lora_only' trained biases in full"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changed the base's own weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora' changed the base's own weights"),
    ],
)
def test_lora_that_is_more_than_an_added_change(tmp_path, options, message):
    adapter = save(tmp_path, linear(LoraConfig, **options))
    with pytest.raises(UserError, match=rf"^adapter {adapter}@0.5: strength: {message}"):
        load_policy(f"{adapter}@0.5")


def test_virtual_tokens_have_none(tmp_path):
    adapter = save(tmp_path, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(UserError, match=rf"^adapter {adapter}@0.5: strength: PEFT scales no PROMPT_TUNING adapter"):
        load_policy(f"{adapter}@0.5")


@pytest.mark.parametrize("at", ["@0.5", ""])
def test_training_goes_on_from_strength_1_alone(tmp_path, at):
    adapter = ropo(tmp_path, strength=1.0 if at else 0.5) + at
    with pytest.raises(
        UserError, match=rf"^adapter {adapter}: is at strength 0.5, and training goes on from 1; fold it"
    ):
        load_adapter(tiny_llama(), adapter, trainable=True)
    trainable = load_adapter(tiny_llama(), f"{adapter.removesuffix(at)}@1", trainable=True).train()
    trainable(input_ids=tokens()).logits.sum().backward()


def test_a_fingerprint_is_of_the_strength_too(tmp_path):
    adapter, lora = ropo(tmp_path), save(tmp_path, linear(ADDED["lora"]), "lora")
    model = load_policy(adapter)
    model.set_strength(0.5)
    model.save_pretrained(tmp_path / "half")
    half = str(tmp_path / "half")
    assert fingerprint_source(f"{adapter}@1") == fingerprint_source(adapter)
    assert fingerprint_source(f"{adapter}@0.5") == fingerprint_source(f"{adapter}/@0.50") == fingerprint_source(half)
    assert fingerprint_source(f"{half}@1") == fingerprint_source(adapter)
    named = [f"{each}@{strength}" for each in (adapter, lora) for strength in (0, 0.5, 1, 1.5)]
    assert len({fingerprint_source(each) for each in [f"{tmp_path}/base", *named]}) == 9


def test_names(tmp_path):
    adapter = ropo(tmp_path, "lr=1")
    specs = [adapter, f"{adapter}@0.5", f"{adapter}/@1.50", f"x={adapter}@0"]
    assert [each.name for each in parse_contestants(specs)] == ["lr=1", "lr=1@0.5", "lr=1@1.5", "x"]
    assert [each.source for each in parse_contestants(specs)] == [*specs[:3], f"{adapter}@0"]
    with pytest.raises(UserError, match=r"have one name, 'lr=1@0.5'"):
        parse_contestants([f"{adapter}@0.5", f"{adapter}@0.50"])


def test_how_it_was_trained_is_known_at_any_strength(tmp_path):
    adapter = ropo(tmp_path)
    record = {"command": [], "config": {"trainer": {"beta": 0.7}}, "status": "finished"}
    (tmp_path / "adapter" / "run.json").write_text(json.dumps(record))
    assert trained_with(f"{adapter}@0.5", "beta", 0.1) == trained_with(adapter, "beta", 0.1) == 0.7
