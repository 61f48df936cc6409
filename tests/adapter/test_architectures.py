"""Default targets exist for every architecture that PEFT has defaults for, and adapt what they name."""

import pytest
import torch
from peft import get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from ropo import RopoConfig
from ropo.adapter import RopoLayer, RopoModel
from tests.adapter.models import VOCABULARY, logits, relative_difference

SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {**SPECIAL, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3}
GROUPED = {**SIZES, "intermediate_size": 40, "num_key_value_heads": 1, "head_dim": 12}

ARCHITECTURES: dict[str, tuple[PreTrainedConfig, set[str]]] = {
    "bloom": (BloomConfig(**SPECIAL, hidden_size=36, n_layer=2, n_head=3), {"query_key_value"}),
    "falcon": (FalconConfig(**SIZES, new_decoder_architecture=False, alibi=False), {"query_key_value"}),
    "gpt_neox": (GPTNeoXConfig(**SIZES, intermediate_size=40), {"query_key_value"}),
    "opt": (OPTConfig(**SIZES, ffn_dim=40, word_embed_proj_dim=36), {"q_proj", "v_proj"}),
    "phi": (PhiConfig(**SIZES, intermediate_size=40), {"q_proj", "v_proj"}),
    "mistral": (MistralConfig(**GROUPED), {"q_proj", "v_proj"}),
    "mixtral": (MixtralConfig(**GROUPED, num_local_experts=2), {"q_proj", "v_proj"}),
    "gemma2": (Gemma2Config(**GROUPED), {"q_proj", "v_proj"}),
    "gemma3_text": (Gemma3TextConfig(**GROUPED), {"q_proj", "v_proj"}),
    "qwen3": (Qwen3Config(**GROUPED), {"q_proj", "v_proj"}),
}


def test_every_architecture_that_peft_knows_has_default_targets() -> None:
    assert len(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING) > 30
    assert set(RopoModel.target_module_mapping) == set(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_targets_start_as_the_reference_train_and_merge(name: str) -> None:
    config, targets = ARCHITECTURES[name]

    def make():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()

    reference = logits(make())
    model = get_peft_model(make(), RopoConfig())
    adapted = {path.rpartition(".")[2] for path, module in model.named_modules() if isinstance(module, RopoLayer)}
    assert adapted == targets
    assert relative_difference(logits(model), reference) < 1e-5

    torch.manual_seed(1)
    model = get_peft_model(make(), RopoConfig(init_weights=False)).eval()
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert len(gradients) == 3 * sum(isinstance(module, RopoLayer) for module in model.modules())
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    rotated = logits(model)
    assert relative_difference(rotated, reference) > 1e-3
    assert relative_difference(logits(model.merge_and_unload()), rotated) < 1e-4
