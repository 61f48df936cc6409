"""How many tokens per second are sampled, with the adapter merged and not."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import get_peft_model

import ropo
from gpu_parts.machine import device
from gpu_parts.models import random_model
from gpu_parts.pairs import word_tokenizer
from ropo.lm.sampling import SamplingSettings, sample_batches


def cases(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the case."""
    return {"sampling": partial(compare, tiny)}


def compare(tiny: bool) -> dict[str, Any]:
    """Sample the same answers from one 8B-shaped model in three states."""
    prompts, length, new = (2, 8, 4) if tiny else (64, 128, 128)
    model = random_model(tiny).eval()
    tokenizer = word_tokenizer(500)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(0)
    encoded = torch.randint(3, 500, (prompts, length), generator=generator).tolist()
    settings = SamplingSettings(max_new_tokens=new, top_p=0.95)

    def tokens_a_second(policy: Any) -> float:
        found = []
        for _ in range(2):  # the first one warms up
            begin = time.perf_counter()
            batches = list(sample_batches(policy, tokenizer, encoded, settings, prompts))
            if device().type == "cuda":
                torch.cuda.synchronize()
            sampled = sum(len(answer.tokens) for batch in batches for each in batch.answers for answer in each)
            found.append(sampled / (time.perf_counter() - begin))
        return round(found[-1], 1)

    speeds = {"base": tokens_a_second(model)}
    policy = get_peft_model(model, ropo.RopoConfig(init_weights=False)).eval()
    speeds["adapter, not merged"] = tokens_a_second(policy)
    speeds["adapter, merged"] = tokens_a_second(policy.merge_and_unload())
    return {"answers": prompts, "new_tokens": new, "tokens_a_second": speeds}
