"""Tiny random models of every kind: attention alone, learned positions, hybrids with a recurrence, recurrent ones."""

from __future__ import annotations

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    BioGptConfig,
    CodeGenConfig,
    CTRLConfig,
    FalconH1Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoConfig,
    GraniteMoeHybridConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MiniMaxConfig,
    MptConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

VOCABULARY, POSITIONS = 32, 24
SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WIDE = {**SPECIAL, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {**WIDE, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
DELTA = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
MAMBA = {"mamba_d_state": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
OLD = {**SPECIAL, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}

ATTENTION: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**HEADS),
    "gemma3": Gemma3TextConfig(
        **HEADS, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
}
LEARNED: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(**OLD),
    "gpt_bigcode": GPTBigCodeConfig(**OLD),
    "gptj": GPTJConfig(**OLD, rotary_dim=4),
    "codegen": CodeGenConfig(**OLD, rotary_dim=4),
    "ctrl": CTRLConfig(**OLD, dff=48),
    "openai": OpenAIGPTConfig(**{name: value for name, value in OLD.items() if not name.endswith("token_id")}),
    "opt": OPTConfig(
        **WIDE, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=POSITIONS
    ),
    "biogpt": BioGptConfig(**WIDE, num_attention_heads=4, intermediate_size=48, max_position_embeddings=POSITIONS),
    "gpt_neo": GPTNeoConfig(
        **SPECIAL,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=POSITIONS,
    ),
    "mpt": MptConfig(**SPECIAL, d_model=32, n_layers=2, n_heads=4, max_seq_len=POSITIONS),
}
HYBRID: dict[str, PreTrainedConfig] = {
    "lfm2": Lfm2Config(**HEADS, layer_types=["conv", "full_attention"]),
    "qwen3_5": Qwen3_5TextConfig(**HEADS, **DELTA),
    "qwen3_next": Qwen3NextConfig(
        **HEADS, **DELTA, **EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "falcon_h1": FalconH1Config(**HEADS, **MAMBA, mamba_d_ssm=32, mamba_n_heads=4),
    "bamba": BambaConfig(**HEADS, **MAMBA, attn_layer_indices=[1], mamba_n_heads=8, mamba_expand=2),
    "granite": GraniteMoeHybridConfig(
        **HEADS,
        **MAMBA,
        layer_types=["mamba", "attention"],
        mamba_n_heads=8,
        mamba_expand=2,
        shared_intermediate_size=16,
        num_local_experts=0,
    ),
    "jamba": JambaConfig(
        **HEADS,
        **EXPERTS,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
}
RECURRENT: dict[str, PreTrainedConfig] = {
    "mamba": MambaConfig(**WIDE, state_size=4),
    "mamba2": Mamba2Config(**WIDE, state_size=4, num_heads=8, head_dim=8, n_groups=1, expand=2),
    "rwkv": RwkvConfig(**SPECIAL, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=48),
    "recurrent_gemma": RecurrentGemmaConfig(
        **{**HEADS, "num_hidden_layers": 3},
        lru_width=32,
        attention_window_size=8,
        block_types=["recurrent", "recurrent", "attention"],
    ),
    "minimax": MiniMaxConfig(
        **HEADS,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        num_local_experts=2,
        num_experts_per_tok=1,
        block_size=16,
    ),
}
ALL = {**ATTENTION, **LEARNED, **HYBRID, **RECURRENT}


def make(name: str) -> PreTrainedModel:
    """Build a model whose next token depends on what came before."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(ALL[name])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)
    return model
