"""Default targets exist for every architecture that PEFT has defaults for, and adapt what they name."""

import copy
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SiglipVisionConfig,
)

from ropo import PreferenceConfig, PreferenceTrainer, RopoConfig
from ropo.adapter import RopoLinear, RopoModel
from ropo.core.errors import UserError
from tests.tiny.adapted import PAIRS, VOCABULARY, logits, relative_difference
from tests.tiny.tokenizer import tiny_tokenizer

SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {**SPECIAL, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3}
GROUPED = {**SIZES, "intermediate_size": 40, "num_key_value_heads": 1, "head_dim": 12}

VISION = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 63, "boi_token_index": 62, "eoi_token_index": 61}

ARCHITECTURES: dict[str, tuple[PreTrainedConfig, set[str]]] = {
    "bloom": (BloomConfig(**SPECIAL, hidden_size=36, n_layer=2, n_head=3), {"query_key_value"}),
    "falcon": (FalconConfig(**SIZES, new_decoder_architecture=False, alibi=False), {"query_key_value"}),
    "gpt_neox": (GPTNeoXConfig(**SIZES, intermediate_size=40), {"query_key_value"}),
    "opt": (OPTConfig(**SIZES, ffn_dim=40, word_embed_proj_dim=36, dropout=0.0), {"q_proj", "v_proj"}),
    "phi": (PhiConfig(**SIZES, intermediate_size=40), {"q_proj", "v_proj"}),
    "mistral": (MistralConfig(**GROUPED), {"q_proj", "v_proj"}),
    "mixtral": (MixtralConfig(**GROUPED, num_local_experts=2), {"q_proj", "v_proj"}),
    "gemma2": (Gemma2Config(**GROUPED), {"q_proj", "v_proj"}),
    "gemma3_text": (Gemma3TextConfig(**GROUPED), {"q_proj", "v_proj"}),
    "qwen3": (Qwen3Config(**GROUPED), {"q_proj", "v_proj"}),
    "llama, tied": (LlamaConfig(**GROUPED, tie_word_embeddings=True), {"q_proj", "v_proj"}),
    "llama, biases": (LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True), {"q_proj", "v_proj"}),
    "qwen2": (Qwen2Config(**SIZES, intermediate_size=40, num_key_value_heads=1), {"q_proj", "v_proj"}),
    "gpt2": (GPT2Config(**SPECIAL, n_embd=36, n_layer=2, n_head=3, n_positions=64), {"c_attn"}),
    "phi3": (Phi3Config(**SIZES, intermediate_size=40, num_key_value_heads=1), {"qkv_proj"}),
    "qwen3_moe": (
        Qwen3MoeConfig(**GROUPED, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2),
        {"q_proj", "v_proj"},
    ),
    "gemma3, vision": (
        Gemma3Config(text_config=Gemma3TextConfig(**GROUPED), vision_config=SiglipVisionConfig(**VISION), **IMAGES),
        {"q_proj", "v_proj"},
    ),
}


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = copy.deepcopy(ARCHITECTURES[name][0])
    images = hasattr(config, "vision_config")
    model = (AutoModelForImageTextToText if images else AutoModelForCausalLM).from_config(config)
    for path, parameter in model.named_parameters():
        if path.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)  # zero after construction
    return model.eval()


def test_every_architecture_that_peft_knows_has_default_targets() -> None:
    assert len(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING) > 30
    assert set(RopoModel.target_module_mapping) == set(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_targets_start_as_the_reference_train_and_merge(name: str) -> None:
    targets = ARCHITECTURES[name][1]

    def make() -> PreTrainedModel:
        return build(name)

    reference = logits(make())
    model = get_peft_model(make(), RopoConfig())
    towers = [path for path, module in model.named_modules() if isinstance(module, RopoLinear)]
    assert len(towers) == 2 * len(targets)
    assert not any("vision" in path for path in towers)
    adapted = {path.rpartition(".")[2] for path, module in model.named_modules() if isinstance(module, RopoLinear)}
    assert adapted == targets
    assert relative_difference(logits(model), reference) < 1e-5

    torch.manual_seed(1)
    model = get_peft_model(make(), RopoConfig(init_weights=False)).eval()
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert len(gradients) == 3 * sum(isinstance(module, RopoLinear) for module in model.modules())
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    rotated = logits(model)
    assert relative_difference(rotated, reference) > 1e-3
    assert relative_difference(logits(model.merge_and_unload()), rotated) < 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trains_with_our_trainer_and_round_trips(name: str, tmp_path: Path) -> None:
    args = PreferenceConfig(
        str(tmp_path / "run"),
        max_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = PreferenceTrainer(
        build(name), args=args, train_dataset=PAIRS, processing_class=tiny_tokenizer(), peft_config=RopoConfig()
    )
    trainer.train()
    first, second = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert abs(first["rewards/margins"]) < 1e-4
    if not trainer.aux_loss_enabled:  # TRL adds the experts' balance to the loss
        assert abs(first["loss"] - math.log(2)) < 1e-4
    assert abs(second["rewards/margins"]) > 1e-6
    trainer.save_model(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(build(name), tmp_path / "adapter").eval()
    saved = {path: part for path, part in trainer.model.named_parameters() if "ropo_" in path}
    loaded = {path: part for path, part in again.named_parameters() if "ropo_" in path}
    assert len(saved) == 3 * 2 * len(ARCHITECTURES[name][1])
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(part, loaded[path]) for path, part in saved.items())
    assert relative_difference(logits(again), logits(build(name))) > 1e-4


def test_the_list_is_the_one_that_was_asked_for() -> None:
    asked = "llama mistral qwen2 qwen3 gemma2 gemma3 phi phi3 gpt2 gpt_neox falcon opt mixtral bloom"
    found = {name.split(",")[0].replace("_text", "") for name in ARCHITECTURES}
    assert set(asked.split()) <= found
    assert {"llama, tied", "llama, biases", "qwen3_moe", "gemma3, vision"} <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        (
            "qwen3_moe",
            "experts",
            "experts is a Qwen3MoeExperts.*name linear layers inside it, or those of the attention",
        ),
        ("mixtral", "experts", "experts is a MixtralExperts.*fused experts and embeddings cannot be adapted"),
        ("qwen2", "lm_head", "lm_head is the output head.*leave it out"),
        ("gpt2", "wte", "wte is a Embedding.*fused experts and embeddings cannot be adapted"),
        ("mistral", "embed_tokens", "embed_tokens is a Embedding.*fused experts and embeddings cannot be adapted"),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_a_mend(name: str, target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_peft_model(build(name), RopoConfig(target_modules=[target]))
