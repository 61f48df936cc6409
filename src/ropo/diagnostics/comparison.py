"""Compare a policy with its reference on the same held-out data; the monitor and `ropo diagnose` both do."""

from __future__ import annotations

__all__ = ["HeldOut", "Observation", "compare", "observe", "sampled_kl"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ropo.core.record import Measure
from ropo.diagnostics.answers import AnswerMeasure, length_ratio, measure_answers
from ropo.diagnostics.behaviour import Behaviour, KlEstimate, estimate_kl, measure_behaviour
from ropo.diagnostics.collapse import effective_rank, isotropy
from ropo.diagnostics.signals import Reading
from ropo.lm.log_probs import answer_log_probs, hidden_states, mean_loss, pair_log_probs, text_losses
from ropo.lm.sampling.batches import sample_answers
from ropo.lm.sampling.settings import Answer, SamplingSettings
from ropo.lm.tokens import Limits, TextWindow, TokenPair

_OpenReference = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class HeldOut:
    """What both models are measured on; what is empty is not measured.

    Args:
        pairs: Preference pairs whose answers keep a token each when they are cut.
        prompts: Token ids of prompts to answer.
        windows: Pieces of plain text.
        settings: How answers are sampled.
        beta: What the DPO margin is multiplied by.
        limits: Where prompt and answer of a pair are cut.
    """

    pairs: Sequence[TokenPair] = ()
    prompts: Sequence[Sequence[int]] = ()
    windows: Sequence[TextWindow] = ()
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    beta: float = 0.1
    limits: Limits = field(default_factory=Limits)

    @property
    def allows_kl(self) -> bool:
        """Whether answers are plain samples of the model, which alone estimate a KL divergence."""
        return bool(self.prompts) and self.settings.temperature == 1.0 and self.settings.top_p == 1.0


class TextMeasure(Measure):
    """Describe a model on plain text: its loss in nats per token, in all and by window, and how its last hidden states
    spread, where that was asked for.
    """

    tokens: int
    loss: float
    hidden_effective_rank: float | None = None
    hidden_isotropy: float | None = None
    losses: list[float]


@dataclass(frozen=True)
class Observation:
    """What one model says of the held-out data."""

    log_probs: Float[Tensor, "pairs 2"] | None
    samples: list[list[Answer]]
    answers: AnswerMeasure | None
    text: TextMeasure | None


class AnswerComparison(Measure):
    """The measures of generated answers, and of the reference's on the same prompts and random numbers."""

    policy: AnswerMeasure
    reference: AnswerMeasure | None
    length_ratio: float | None
    kl: KlEstimate | None


class TextComparison(Measure):
    """The measures on plain text, and the reference's."""

    policy: TextMeasure
    reference: TextMeasure | None


class PolicyComparison(Measure):
    """How a policy differs from its reference; what was not measured is None."""

    behaviour: Behaviour | None
    answers: AnswerComparison | None
    text: TextComparison | None

    def readings(self) -> dict[str, Reading]:
        """Return what the warnings look at, each with the sampled units behind it: pairs, prompts, windows."""
        readings: dict[str, Reading] = {}
        if self.behaviour is not None:
            changes = zip(*self.behaviour.changes_per_token, strict=True)
            for name, of_pairs in zip(("chosen_change_per_token", "rejected_change_per_token"), changes, strict=True):
                readings[name] = Reading(getattr(self.behaviour, name), of_pairs)
        if self.answers is not None and self.answers.reference is not None:
            policy, reference = self.answers.policy, self.answers.reference
            repeated = _differences(policy.repetition_by_prompt, reference.repetition_by_prompt)
            readings["repetition_rise"] = Reading(policy.repetition - reference.repetition, repeated)
            if self.answers.length_ratio is not None:
                longer = _differences(policy.tokens_by_prompt, reference.tokens_by_prompt)
                readings["length_ratio"] = Reading(self.answers.length_ratio, longer)
        if self.text is not None and self.text.reference is not None:
            rise = self.text.policy.loss - self.text.reference.loss
            losses = _differences(self.text.policy.losses, self.text.reference.losses)
            readings["text_loss_rise"] = Reading(rise, losses)
        return readings

    def numbers(self) -> dict[str, float]:
        """Return the numbers beside those of `readings` that are logged, and that choose what is tried."""
        numbers: dict[str, float | None] = {}
        if self.behaviour is not None:
            shown = ("margin", "accuracy", "displacement", "length_reward_correlation")
            numbers |= {name: getattr(self.behaviour, name) for name in shown}
        if self.answers is not None:
            numbers["truncated"] = self.answers.policy.truncated
            if (kl := self.answers.kl) is not None:
                low, high = kl.per_token_interval or (None, None)
                numbers |= {"kl_per_token": kl.per_token, "kl_per_token_low": low, "kl_per_token_high": high}
        return {name: value for name, value in numbers.items() if value is not None}


def observe(
    model: Any, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, with_hidden_states: bool = False
) -> Observation:
    """Measure one model on the held-out data.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its own.
        held_out: The data.
        with_hidden_states: Whether to measure how hidden states spread on the plain text, at one more pass over it.

    Returns:
        What it says of the data.

    Cost: a forward pass over chosen and rejected, generation, a forward pass over the text. Touches no global random
    state.
    """
    samples = sample_answers(model, tokenizer, held_out.prompts, held_out.settings) if held_out.prompts else []
    return Observation(
        log_probs=pair_log_probs(model, held_out.pairs, held_out.limits) if held_out.pairs else None,
        samples=samples,
        answers=measure_answers(samples, len(tokenizer)) if samples else None,
        text=_measure_text(model, held_out.windows, with_hidden_states) if held_out.windows else None,
    )


def compare(
    held_out: HeldOut, policy: Observation, reference: Observation | None, kl: KlEstimate | None = None
) -> PolicyComparison:
    """Compare what a policy and its reference say of the same held-out data.

    Args:
        held_out: The data.
        policy: What the policy says.
        reference: What the reference says; None describes the policy alone.
        kl: From `sampled_kl`.
    """
    behaviour = None
    if policy.log_probs is not None and reference is not None and reference.log_probs is not None:
        sequences = [held_out.limits.cut(pair) for pair in held_out.pairs]
        lengths = torch.tensor([[len(answer) for _, answer in both] for both in sequences])
        behaviour = measure_behaviour(policy.log_probs, reference.log_probs, lengths, held_out.beta)
    answers = text = None
    if policy.answers is not None:
        before = reference.answers if reference else None
        ratio = length_ratio(policy.answers, before) if before else None
        answers = AnswerComparison(policy=policy.answers, reference=before, length_ratio=ratio, kl=kl)
    if policy.text is not None:
        text = TextComparison(policy=policy.text, reference=reference.text if reference else None)
    return PolicyComparison(behaviour=behaviour, answers=answers, text=text)


def sampled_kl(
    model: Any, reference: _OpenReference, prompts: Sequence[Sequence[int]], samples: Sequence[Sequence[Answer]]
) -> KlEstimate:
    """Estimate KL(model || reference) from answers that the model sampled at temperature 1; see `estimate_kl`.

    Cost: one forward pass over the answers under each model.
    """
    asked = [number for number, (_, group) in enumerate(zip(prompts, samples, strict=True)) for _ in group]
    contexts = [prompts[number] for number in asked]
    answers = [answer.tokens for group in samples for answer in group]
    log_probs = answer_log_probs(model, contexts, answers)
    with reference() as other:
        baseline = answer_log_probs(other, contexts, answers)
    mask = pad_sequence([torch.ones(len(answer), dtype=torch.bool) for answer in answers], batch_first=True)
    padded = [pad_sequence(scores, batch_first=True) for scores in (log_probs, baseline)]
    return estimate_kl(padded[0], padded[1], mask, torch.tensor(asked))


def reference_opener(model: Any, reference: Any | None) -> _OpenReference | None:
    """Return what opens the reference as a context: another model, the adapter switched off, or None for nothing."""
    if reference is not None:
        return lambda: nullcontext(reference)
    if isinstance(model, PeftModel):
        return lambda: _without_adapter(model)
    return None


def _measure_text(model: Any, windows: Sequence[TextWindow], with_hidden_states: bool) -> TextMeasure:
    losses = text_losses(model, windows)
    spread: dict[str, float | None] = {}
    if with_hidden_states:
        rows = hidden_states(model, windows)
        spread = {"hidden_effective_rank": effective_rank(rows), "hidden_isotropy": isotropy(rows)}
    tokens = sum(len(window.ids) for window in windows)
    return TextMeasure(tokens=tokens, loss=mean_loss(losses, windows), losses=losses, **spread)


def _differences(values: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    return tuple(after - before for after, before in zip(values, reference, strict=True))


@contextmanager
def _without_adapter(model: PeftModel) -> Iterator[PeftModel]:
    with model.disable_adapter():
        yield model
