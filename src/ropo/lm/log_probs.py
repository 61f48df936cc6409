"""Run a causal language model over given tokens: log-probs of answers, loss on text, hidden states."""

from __future__ import annotations

__all__ = [
    "answer_distributions",
    "answer_log_probs",
    "fitted_batches",
    "hidden_states",
    "mean_loss",
    "pair_log_probs",
    "text_losses",
]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from ropo.lm.adapters import base_model_of
from ropo.lm.capacity import (
    check_ids,
    fit_sequences,
    ignores_padding,
    left_padded,
    left_padded_positions,
    position_limit,
    virtual_tokens,
)
from ropo.lm.packing.model import (
    architecture_reason,
    difference,
    packed_distributions,
    packed_log_probs,
    take_packs,
    takes_packs,
    trial_batch,
)
from ropo.lm.tokens import Limits, TextWindow, TokenPair

_BATCH = 4  # answers of a padded pass
_PACK = 2048  # tokens of a pack
_SAME: WeakKeyDictionary[Any, dict[torch.dtype, bool]] = WeakKeyDictionary()  # by base model, as tried
_Sequences = Sequence[Sequence[int]]

# Here and in sampling gradients are off, but not by `inference_mode`, in which FSDP2 cannot gather a layer.


@torch.no_grad()
def answer_log_probs(model: Any, prompts: _Sequences, answers: _Sequences) -> list[Float32[Tensor, " tokens"]]:
    """Compute log pi(y_t | x, y_<t) of every answer token, in nats.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of each prompt, at least one each.
        answers: Token ids of each answer, at least one each.

    Returns:
        One float32 tensor per answer, on the CPU; of the tokens that the model has positions for, which is said where
        they are not all.

    Raises:
        UserError: If there is a token that the model has no embedding for.

    Cost: a forward pass for 2,048 tokens, as packs: without padding, and a prompt once for all its answers. Where a
    model computes something else on packs, a padded one for 4 answers. Logits of the answer positions only.
    """
    prompts, answers = _fitted(model, prompts, answers)
    with _taking_packs(model) as takes_them:
        if takes_them:
            return packed_log_probs(model, prompts, answers, _PACK)
    return _padded_log_probs(model, prompts, answers)


@contextmanager
def _taking_packs(model: Any) -> Iterator[bool]:
    """Let a model take packs inside, where it computes the same on them, and tell whether it does."""
    base: Any = base_model_of(model)
    if takes_packs(base):  # in training, and tried there
        yield True
    elif not _same_on_packs(model, base):
        yield False
    else:
        undo = take_packs(base)
        try:
            yield True
        finally:
            undo()


def _same_on_packs(model: Any, base: Any) -> bool:
    """Tell whether a model computes the same log-probs on packs as on padded batches, from a tiny pair, tried once."""
    if virtual_tokens(model) or architecture_reason(base) is not None:
        return False
    device = base.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.dtype
    tried = _SAME.setdefault(base, {})
    if dtype not in tried:
        input_ids, _, scored = trial_batch(base)
        answer = int(scored[0].argmax())
        trial = input_ids[:, :answer].tolist(), input_ids[:, answer:].tolist()
        padded = torch.stack(_padded_log_probs(model, *trial))
        undo = take_packs(base)
        try:
            found = difference(lambda: torch.stack(packed_log_probs(model, *trial, _PACK)), padded, dtype)
        finally:
            undo()
        tried[dtype] = found is None
    return tried[dtype]


def _padded_log_probs(model: Any, prompts: _Sequences, answers: _Sequences) -> list[Float32[Tensor, " tokens"]]:
    scores: list[Float32[Tensor, " tokens"]] = []
    for some, theirs in _batches(model, prompts, answers):
        distributions, targets = _distributions(model, some, theirs)
        chosen = distributions.gather(2, targets[:, :, None]).squeeze(2).cpu()
        scores += [row[-len(answer) :] for row, answer in zip(chosen, theirs, strict=True)]
    return scores


def fitted_batches(model: Any, prompts: _Sequences, answers: _Sequences) -> Iterator[tuple[_Sequences, _Sequences]]:
    """Yield the prompts and answers of one padded forward pass after the other, cut where the model's positions end.

    Raises:
        UserError: If there is a token that the model has no embedding for.
    """
    return _batches(model, *_fitted(model, prompts, answers))


def _fitted(model: Any, prompts: _Sequences, answers: _Sequences) -> tuple[_Sequences, _Sequences]:
    prompts, answers = fit_sequences(model, prompts, answers)
    check_ids(model, (token for ids in (*prompts, *answers) for token in ids))
    return prompts, answers


def _batches(model: Any, prompts: _Sequences, answers: _Sequences) -> Iterator[tuple[_Sequences, _Sequences]]:
    size = _BATCH if ignores_padding(model) else 1
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size], answers[start : start + size]


@torch.no_grad()
def answer_distributions(
    model: Any, prompts: _Sequences, answers: _Sequences
) -> list[Float32[Tensor, "tokens vocabulary"]]:
    """Compute log pi(. | x, y_<t) over the whole vocabulary at every answer token, in nats.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of each prompt, at least one each, that fit the model (`ropo.lm.capacity.fit_sequences`).
        answers: Token ids of each answer, at least one each.

    Returns:
        One float32 tensor per answer, on the model's device.

    Cost: one forward pass for all, which are therefore to be few: 4 bytes for each token and vocabulary entry.
    """
    with _taking_packs(model) as takes_them:
        if takes_them:
            return packed_distributions(model, prompts, answers)
    distributions, _ = _distributions(model, prompts, answers)
    return [rows[-len(answer) :] for rows, answer in zip(distributions, answers, strict=True)]


def pair_log_probs(model: Any, pairs: Sequence[TokenPair], limits: Limits | None = None) -> Float[Tensor, "pairs 2"]:
    """Sum the log-probs of chosen and rejected answers.

    Args:
        model: A causal language model in evaluation mode.
        pairs: Pairs whose answers keep a token each when they are cut.
        limits: Where sequences are cut; None for nowhere.

    Returns:
        Chosen and rejected, in nats, in float64 on the CPU.

    Cost: see `answer_log_probs`.
    """
    sequences = [each for pair in pairs for each in (limits or Limits()).cut(pair)]
    prompts, answers = [prompt for prompt, _ in sequences], [answer for _, answer in sequences]
    sums = [float(scores.double().sum()) for scores in answer_log_probs(model, prompts, answers)]
    return torch.tensor(sums, dtype=torch.float64).view(-1, 2)


def text_losses(model: Any, windows: Sequence[TextWindow]) -> list[float]:
    """Compute the mean negative log-likelihood of each window of a plain text, in nats per token.

    L = -1/T sum_t log pi(w_t | c, w_<t) over the T tokens w after the window's context c.

    Args:
        model: A causal language model in evaluation mode.
        windows: From `ropo.lm.tokens.text_windows`.

    Returns:
        One loss a window.

    Cost: see `answer_log_probs`.
    """
    scores = answer_log_probs(model, [each.context for each in windows], [each.tokens for each in windows])
    return [-float(each.double().mean()) for each in scores]


def mean_loss(losses: Sequence[float], windows: Sequence[TextWindow]) -> float:
    """Return the mean over the tokens of all windows; exp of it is the perplexity.

    Its rise over the reference's is what preference training forgot of plain language modelling.

    Args:
        losses: One a window, as `text_losses` returns them.
        windows: The same windows.
    """
    tokens = [len(window.tokens) for window in windows]
    return sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)


def text_loss(model: Any, windows: Sequence[TextWindow]) -> float:
    """Compute the mean negative log-likelihood of a plain text, in nats per token; see `text_losses`, `mean_loss`."""
    return mean_loss(text_losses(model, windows), windows)


@torch.no_grad()
def hidden_states(model: Any, windows: Sequence[TextWindow]) -> Float[Tensor, "tokens d"]:
    """Return the last layer's hidden state of every token of every window.

    Args:
        model: A causal language model in evaluation mode.
        windows: From `ropo.lm.tokens.text_windows`.

    Returns:
        One row per token, in float32, on the model's device.

    Cost: one forward pass a window, without logits; the rows of all windows are held.
    """
    rows = []
    for window in windows:
        check_ids(model, window.ids)
        ids = torch.tensor([window.ids[: position_limit(model)]], device=model.device)
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        rows.append(output.hidden_states[-1][0, -ids.shape[1] :].float())
    return torch.cat(rows)


def _distributions(
    model: Any, prompts: _Sequences, answers: _Sequences
) -> tuple[Float32[Tensor, "answers longest vocabulary"], Int[Tensor, "answers longest"]]:
    """Return what the model says of each answer's tokens, and these.

    They are padded on the left, so that all answers end in the last column and one slice holds them all.
    """
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    tokens, mask = left_padded(rows, model.device)
    longest = max(map(len, answers))
    logits = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=None if bool(mask.all()) else left_padded_positions(mask),
        use_cache=False,
        logits_to_keep=longest + 1,
    ).logits[:, -longest - 1 : -1]
    return logits.float().log_softmax(dim=-1), tokens[:, -longest:]
