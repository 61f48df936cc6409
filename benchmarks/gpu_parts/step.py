"""One training step of a Llama-3-8B-shaped model: LoRA against RoPO, with and without gradient checkpointing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

import ropo
from gpu_parts.machine import ceilings, device, median, peak_memory
from gpu_parts.models import random_model

TARGETS = ["q_proj", "v_proj"]


def cases(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the cases: with checkpointing, which fits everywhere, and without."""
    return {
        f"8B step, checkpointing {'on' if on else 'off'}": partial(compare, tiny, on, 2 if tiny else 5)
        for on in (True, False)
    }


@lru_cache(maxsize=1)
def base_model(tiny: bool) -> Any:
    """Return the model, once a process."""
    return random_model(tiny)


def compare(tiny: bool, checkpointing: bool, steps: int) -> dict[str, Any]:
    """Take steps of one after the other, twice, and put time, memory and arithmetic side by side."""
    rows, length = (2, 32) if tiny else (2, 2048)
    base = base_model(tiny)
    tokens = torch.randint(3, base.config.vocab_size, (rows, length), device=device())
    configs = {"lora r=8": partial(LoraConfig, r=8, target_modules=TARGETS), "ropo": ropo.RopoConfig}
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    memory: dict[str, float | None] = {}
    for _ in range(2):
        for name, config in configs.items():
            model = get_peft_model(base, config())
            with peak_memory() as peak:
                seconds[name] += train(model, tokens, checkpointing, steps)
                memory[name] = peak()
            base = model.unload()
    times = {name: median(values) for name, values in seconds.items()}
    work = arithmetic(base, rows, length)
    limit = ceilings()
    return {
        "tokens": rows * length,
        "seconds_a_step": times,
        "ropo_over_lora": round(times["ropo"] / times["lora r=8"], 4),
        "peak_gib": memory,
        "tflop_s": {name: round(work / value / 1e12, 2) for name, value in times.items()},
        "share_of_matmul": {
            name: round(work / value / 1e12 / limit["matmul_tflop_s"], 4) for name, value in times.items()
        },
        **limit,
    }


def train(model: Any, tokens: torch.Tensor, checkpointing: bool, steps: int) -> list[float]:
    """Take steps, the first of which is not counted, and return the seconds of each."""
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    seconds = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        with torch.autocast(device().type, dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not loss.isfinite():  # waits for the device, too
            raise FloatingPointError(f"the loss is {loss.item()}")
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def arithmetic(model: Any, rows: int, length: int) -> float:
    """Count a step's operations: frozen weights take part in two products, causal attention in half of its scores.

    What checkpointing computes again is not counted, so that the share says how much of the device is put to use.
    """
    config = model.config
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    attention = 3 * config.num_hidden_layers * rows * 2 * length * length * width  # 4 l^2 d / 2, thrice
    return 4.0 * weights * rows * length + attention
