"""A tiny random Llama with a byte-level tokenizer, written as a `.gguf` file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

WIDTH, FORWARD, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 4, 2
SPECIALS = ["<pad>", "<s>", "</s>"]


def write_gguf(path: Path, seed: int = 0, tied: bool = True) -> Path:
    """Write the file; quantised weights and plain ones are both in it."""
    tokens = SPECIALS + sorted(ByteLevel.alphabet()) + ["he"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIALS) + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}")
    rng = np.random.default_rng(seed)

    def add(name: str, *shape: int, quantised: bool = True) -> None:
        values = rng.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        if quantised and shape[-1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", len(tokens), WIDTH)
    if not tied:
        add("output.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH, quantised=False)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", WIDTH, quantised=False)
        add(f"{block}.ffn_norm.weight", WIDTH, quantised=False)
        add(f"{block}.attn_q.weight", WIDTH, WIDTH)
        add(f"{block}.attn_k.weight", KV_HEADS * WIDTH // HEADS, WIDTH)
        add(f"{block}.attn_v.weight", KV_HEADS * WIDTH // HEADS, WIDTH)
        add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", FORWARD, WIDTH)
        add(f"{block}.ffn_up.weight", FORWARD, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
