"""A tiny model, quantised by each library."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

pytestmark = [
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),  # bitsandbytes says of every product that it rounds the inputs
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao"),
]
LOSS = {"bnb 4bit": 0.12, "bnb 8bit": 0.02, "torchao": 0.02}


def options(kind: str) -> Any:
    if kind == "torchao":
        pytest.importorskip("torchao", reason="torchao is not installed")
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    if kind == "bnb 8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def save_plain(folder: Any) -> str:
    """Save the model that is quantised, of sizes that every library takes."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, eos_token_id=2, initializer_range=0.2)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> str:
    return save_plain(tmp_path_factory.mktemp("plain"))


def load(folder: str, kind: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=options(kind), device_map="cpu", dtype=torch.float32
    )
