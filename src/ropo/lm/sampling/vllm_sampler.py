"""Sample with vLLM where it is installed: the same plan and journal, with vLLM's own random numbers."""

from __future__ import annotations

__all__ = ()

import gc
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.adapters import is_adapter
from ropo.lm.sampling.batches import Batch, batches_to_do, load_sampler_model
from ropo.lm.sampling.settings import Answer, SamplingSettings


def sampling_backend() -> str:
    """Return what samples on this machine: `vllm` with its version where it is installed with a GPU, or ours."""
    try:
        return f"vllm {version('vllm')}" if _has_gpu() else "transformers"
    except PackageNotFoundError:
        return "transformers"


@contextmanager
def open_engine(source: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    """Yield vLLM's engine with a model, and free its memory afterwards.

    Args:
        source: Whatever `ropo.lm.loading.load_policy` takes; adapters and GGUF files are merged into a
            temporary folder.
        tokenizer: The model's own.
    """
    import vllm

    with plain_checkpoint(source, tokenizer) as checkpoint:
        engine = vllm.LLM(model=checkpoint)
        try:
            yield engine
        finally:
            del engine
            gc.collect()


def sample_batches_with_vllm(
    engine: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    settings: SamplingSettings,
    batch_size: int,
    done: Collection[int] = (),
) -> Iterator[Batch]:
    """Sample answers batch by batch, as `ropo.lm.sampling.sample_batches` does, with an engine of `open_engine`.

    Each prompt has a seed of its own, made from that of the settings and its number.

    Yields:
        Finished batches, in the order of the plan.
    """
    import vllm

    for number, prompts in batches_to_do(encoded, settings, batch_size, done):
        outputs = engine.generate(
            [{"prompt_token_ids": list(encoded[prompt])} for prompt in prompts],
            [vllm.SamplingParams(**_parameters(settings, prompt, tokenizer)) for prompt in prompts],
            use_tqdm=False,
        )
        yield Batch(number, prompts, [[_to_answer(each) for each in output.outputs] for output in outputs])


@contextmanager
def plain_checkpoint(source: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a folder or hub id that vLLM serves: the source itself, or a merged copy that is deleted afterwards."""
    if not is_adapter(source) and Path(source).suffix != ".gguf":
        yield source
        return
    model = load_sampler_model(source)
    if isinstance(model, PeftModel):
        raise UserError(f"model {source}: vLLM cannot be given its quantised base; name what `ropo merge` makes of it")
    with TemporaryDirectory(prefix="ropo-") as folder:
        model.cpu().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield folder


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _parameters(settings: SamplingSettings, prompt: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return vLLM's parameters; it adds the end tokens of the checkpoint's generation_config.json itself."""
    stop = tokenizer.eos_token_id
    return {
        "n": settings.samples,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_new_tokens,
        "seed": int(np.random.default_rng([settings.seed, prompt]).integers(2**31)),
        "stop_token_ids": [] if stop is None else [stop],
    }


def _to_answer(completion: Any) -> Answer:
    return Answer(completion.text.strip(), tuple(completion.token_ids), completion.finish_reason == "stop")
