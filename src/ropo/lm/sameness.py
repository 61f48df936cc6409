"""Whether two models are the same: how far apart their logits are, and how far arithmetic alone puts them apart."""

from __future__ import annotations

__all__ = ["Distance"]

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ropo.lm.prompts import PromptRecord, encode_prompts
from ropo.lm.sampling import SamplingSettings, sample_answers

_QUESTIONS = (
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "What is 17 + 25?",
    "def fibonacci(n):",
    "Translate to French: good morning, my friend.",
    "List three things to do in Oslo.",
    "Is it safe to eat raw potatoes?",
    "Summarise: the cat sat on the mat, and the dog ran away.",
)
_NEW_TOKENS = 16
_DRAWS = 2


@dataclass(frozen=True)
class Probe:
    """What models are compared on: prompts, and what one of them answered greedily.

    Attributes:
        prompts: Token ids of each prompt.
        answers: Token ids of each answer, one at least.
    """

    prompts: list[list[int]]
    answers: list[list[int]]


@dataclass(frozen=True)
class Distance:
    """Say how far a model's next-token distributions are from another's.

    Attributes:
        tokens: Positions that were compared.
        agreeing: Share of them at which both would greedily take the same token.
        largest: The largest difference of a logit.
        kl: Mean of KL(expected || found), nats per token.
    """

    tokens: int
    agreeing: float
    largest: float
    kl: float

    def __str__(self) -> str:
        return (
            f"{self.agreeing:.1%} of {self.tokens} greedy tokens agree, logits differ by {self.largest:.2g} at most, "
            f"KL {self.kl:.2g} nats"
        )


def make_probe(model: Any, tokenizer: PreTrainedTokenizerBase) -> Probe:
    """Let a model answer a few fixed prompts greedily.

    Cost: 16 tokens for each of 8 prompts.
    """
    prompts = [
        PromptRecord({"prompt": text}, [{"role": "user", "content": text}], number)
        for number, text in enumerate(_QUESTIONS, start=1)
    ]
    encoded = encode_prompts(tokenizer, prompts)
    settings = SamplingSettings(temperature=0, max_new_tokens=_NEW_TOKENS)
    answers = sample_answers(model, tokenizer, encoded, settings)
    return Probe(encoded, [list(each[0].tokens) for each in answers])


@torch.inference_mode()
def logits_on(model: Any, probe: Probe) -> Float32[Tensor, "tokens vocabulary"]:
    """Compute the logits of every answer position.

    Returns:
        They lie on the CPU.

    Cost: a forward pass over each prompt and its answer, without padding.
    """
    found = []
    for prompt, answer in zip(probe.prompts, probe.answers, strict=True):
        tokens = torch.tensor([[*prompt, *answer[:-1]]], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, -len(answer) :]
        found.append(logits.float().cpu())
    return torch.cat(found)


def distance(expected: Float[Tensor, "tokens vocabulary"], found: Float[Tensor, "tokens vocabulary"]) -> Distance:
    """Compare the logits of two models on the same tokens."""
    ours, theirs = (each.double().log_softmax(-1) for each in (expected, found))
    return Distance(
        tokens=len(expected),
        agreeing=float((expected.argmax(-1) == found.argmax(-1)).double().mean()),
        largest=float((expected - found).abs().max()),
        kl=max(0.0, float((ours.exp() * (ours - theirs)).sum(-1).mean())),  # a sum of terms that cancel
    )


def arithmetic_distance(model: Any, probe: Probe, expected: Float[Tensor, "tokens vocabulary"]) -> float:
    """Measure how far apart two correct computations in the dtype of a model's weights may put a logit.

    A product of k terms, summed in whatever order, is off by about sqrt(k) u of its size, u being half the dtype's
    machine epsilon (N. Higham and T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
    Comput. 41, 2019). So every linear layer's output gets normal noise of that size, relative to its root mean square,
    and what arrives at the logits is looked at: the larger of two draws.

    Cost: twice `logits_on`.
    """
    generator = torch.Generator().manual_seed(0)
    with _rounding_worse(model, generator):
        return max(distance(expected, logits_on(model, probe)).largest for _ in range(_DRAWS))


@contextmanager
def _rounding_worse(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    def disturb(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator).to(output)
        size = output.square().mean(-1, keepdim=True).sqrt()
        return output + math.sqrt(inputs[0].shape[-1]) * torch.finfo(output.dtype).eps / 2 * size * noise

    linears = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    handles = [module.register_forward_hook(disturb) for module in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
