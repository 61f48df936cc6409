"""Measure a whole model, alone or against its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ropo.diagnostics.answers import Generation, length_ratio, measure_answers
from ropo.diagnostics.behaviour import Behaviour, KlEstimate, estimate_kl
from ropo.diagnostics.collapse import effective_rank, isotropy
from ropo.diagnostics.report import AnswerComparison, TextComparison, TextMeasure
from ropo.diagnostics.sampling import sample_answers
from ropo.lm.log_probs import (
    TokenPair,
    answer_log_probs,
    compare_on_pairs,
    hidden_states,
    mean_loss,
    pair_log_probs,
    text_losses,
)
from ropo.lm.sampling.settings import SamplingSettings

OpenReference = Callable[[], Any]


def reference_opener(model: Any, reference: Any | None) -> Callable[[], Any] | None:
    """Return what opens the reference as a context: another model, the adapter switched off, or None for nothing."""
    if reference is not None:
        return lambda: _as_context(reference)
    if isinstance(model, PeftModel):
        return lambda: _without_adapter(model)
    return None


def diagnose_behaviour(model: Any, reference: OpenReference, pairs: Sequence[TokenPair]) -> Behaviour:
    """Compare the log-probs of held-out answers under a model and its reference.

    Args:
        model: A causal language model in evaluation mode.
        reference: What `reference_opener` returns.
        pairs: Held-out pairs.

    Returns:
        The summary.

    Cost: two forward passes over chosen and rejected.
    """
    log_probs = pair_log_probs(model, pairs)
    with reference() as other:
        return compare_on_pairs(pairs, log_probs, pair_log_probs(other, pairs))


def diagnose_answers(
    model: Any,
    reference: OpenReference | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
) -> AnswerComparison:
    """Sample answers from a model and its reference and measure both.

    Args:
        model: A causal language model in evaluation mode.
        reference: What `reference_opener` returns; None measures the model alone.
        tokenizer: The model's own.
        prompts: Token ids.
        settings: How to sample; the KL divergence is estimated at temperature 1 without a nucleus only.

    Returns:
        The measures.

    Cost: generation from both, and two forward passes over the answers for the KL divergence.
    """
    samples = sample_answers(model, tokenizer, prompts, settings)
    policy = measure_answers(samples, len(tokenizer))
    if reference is None:
        return AnswerComparison(policy=policy, reference=None, length_ratio=None, kl=None)
    with reference() as other:
        baseline = measure_answers(sample_answers(other, tokenizer, prompts, settings), len(tokenizer))
    kl = None
    if settings.temperature == 1.0 and settings.top_p == 1.0:
        kl = sampled_kl(model, reference, prompts, samples)
    return AnswerComparison(policy=policy, reference=baseline, length_ratio=length_ratio(policy, baseline), kl=kl)


def sampled_kl(
    model: Any, reference: OpenReference, prompts: Sequence[Sequence[int]], samples: Sequence[Sequence[Generation]]
) -> KlEstimate:
    """Estimate KL(model || reference) from answers that the model sampled; see `estimate_kl`."""
    contexts = [prompt for prompt, group in zip(prompts, samples, strict=True) for _ in group]
    answers = [answer.tokens for group in samples for answer in group]
    log_probs = answer_log_probs(model, contexts, answers)
    with reference() as other:
        baseline = answer_log_probs(other, contexts, answers)
    mask = pad_sequence([torch.ones(len(answer), dtype=torch.bool) for answer in answers], batch_first=True)
    return estimate_kl(pad_sequence(log_probs, batch_first=True), pad_sequence(baseline, batch_first=True), mask)


def diagnose_text(model: Any, reference: OpenReference | None, windows: Sequence[Sequence[int]]) -> TextComparison:
    """Measure a model and its reference on plain text; see `text_losses` and `hidden_states`."""
    policy = _measure_text(model, windows)
    if reference is None:
        return TextComparison(policy=policy, reference=None)
    with reference() as other:
        return TextComparison(policy=policy, reference=_measure_text(other, windows))


def _measure_text(model: Any, windows: Sequence[Sequence[int]]) -> TextMeasure:
    rows = hidden_states(model, windows)
    losses = text_losses(model, windows)
    return TextMeasure(
        tokens=sum(map(len, windows)),
        loss=mean_loss(losses, windows),
        hidden_effective_rank=effective_rank(rows),
        hidden_isotropy=isotropy(rows),
        losses=losses,
    )


@contextmanager
def _as_context(model: Any) -> Iterator[Any]:
    yield model


@contextmanager
def _without_adapter(model: PeftModel) -> Iterator[PeftModel]:
    with model.disable_adapter():
        yield model
