"""The decoding loop: prompts run once, their cache is shared by all samples, and finished rows leave the batch."""

from __future__ import annotations

__all__ = ()

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.adapters import base_model_of
from ropo.lm.capacity import (
    cap_answers,
    check_ids,
    close_to_rounding,
    ignores_padding,
    left_padded,
    left_padded_positions,
    position_limit,
    readable_tokens,
    telling_of_other_models,
    virtual_tokens,
)
from ropo.lm.sampling.picking import pick_tokens
from ropo.lm.sampling.settings import SamplingSettings

# Dropping finished rows copies the cache of the others, so it waits until this share of the rows is finished.
_DROP_SHARE = 0.125


class Decoder:
    """Sample from one model: what it is, and what it can be given, is found out once.

    Raises:
        UserError: If a prompt has ids that the model does not know, or leaves no position for an answer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
    ) -> None:
        self.model, self.prompts, self.settings = model, prompts, settings
        self.stops = _stop_tokens(model, tokenizer)
        check_ids(model, (token for ids in prompts for token in ids), tokenizer)
        self._most = cap_answers(model, [len(ids) for ids in prompts], settings.max_new_tokens)
        self._limit = position_limit(model)
        self._readable = readable_tokens(model, tokenizer)
        self._loops = _has_dynamic_cache(model)
        self._padded = self._loops and ignores_padding(model)
        self._batched = self._loops or self._generates_batches()

    @torch.no_grad()
    def decode(self, numbers: Sequence[int], uniforms: Float[Tensor, "rows steps"]) -> list[list[int]]:
        """Continue some of the prompts, each `settings.samples` times.

        Where a model keeps anything but transformers' `DynamicCache`, whose rows can be repeated and dropped, its own
        `generate` runs instead of our loop, with the same random numbers. Prompts are padded only where that changes
        nothing, and leaves the columns within the model's positions; else those of one length go together.

        Args:
            numbers: Which prompts.
            uniforms: Random numbers in [0, 1): row `place * samples + sample` for the prompt at a place of `numbers`,
                one column a new token.

        Returns:
            The new tokens of each row, a final stop token included.

        Raises:
            UserError: If the model's logits are NaN after the prompts, or transformers cannot sample from it.

        Cost: one forward pass over the prompts and one a new token; the cache holds every row's keys and values.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        padded = self._padded and self._fits_padded(numbers)
        for place, number in enumerate(numbers):
            groups[0 if padded else len(self.prompts[number])].append(place)
        samples = self.settings.samples
        answers: dict[int, list[int]] = {}
        for places in groups.values():
            rows = [place * samples + sample for place in places for sample in range(samples)]
            prompts = [self.prompts[numbers[place]] for place in places]
            most = torch.tensor([self._most[numbers[row // samples]] for row in rows], device=self.model.device)
            run = self._loop if self._loops else self._generate
            answers.update(zip(rows, run(prompts, uniforms[rows], most), strict=True))
        return [answers[row] for row in sorted(answers)]

    def _fits_padded(self, numbers: Sequence[int]) -> bool:
        """Tell whether the columns stay within the positions: MPT and GPT-Neo count padding among them."""
        width = max(len(self.prompts[number]) for number in numbers) + max(self._most[number] for number in numbers)
        return self._limit is None or width <= self._limit

    def _loop(
        self, prompts: Sequence[Sequence[int]], uniforms: Float[Tensor, "rows steps"], most: Int[Tensor, " rows"]
    ) -> list[list[int]]:
        model, samples = self.model, self.settings.samples
        tokens, mask = left_padded(prompts, model.device)
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=None if bool(mask.all()) else left_padded_positions(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        _check(output.logits[:, -1])
        cache = output.past_key_values
        # Not `batch_repeat_interleave`, which layers with a recurrent state lack or inherit from attention's.
        cache.reorder_cache(torch.arange(len(prompts), device=model.device).repeat_interleave(samples))
        if virtual := virtual_tokens(model):  # in the cache now; PEFT would put them before every new token again
            mask, model = F.pad(mask, (virtual, 0), value=1), base_model_of(model)
        mask = mask.repeat_interleave(samples, 0)
        logits = output.logits[:, -1].repeat_interleave(samples, 0)

        answers: list[list[int]] = [[] for _ in range(len(mask))]
        rows = torch.arange(len(mask), device=model.device)
        live = torch.ones_like(rows, dtype=torch.bool)
        for step in range(int(most.max())):
            tokens = self._pick(logits, uniforms[rows, step])
            for row, token, going_on in zip(rows.tolist(), tokens.tolist(), live.tolist(), strict=True):
                if going_on:
                    answers[row].append(token)
            live &= ~torch.isin(tokens, self.stops) & (step + 1 < most[rows])
            if not live.any():
                break
            if live.float().mean() <= 1 - _DROP_SHARE:
                kept = live.nonzero().flatten()
                cache.reorder_cache(kept)
                rows, tokens, mask, live = rows[kept], tokens[kept], mask[kept], live[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            output = model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=left_padded_positions(mask)[:, -1:],
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1]
        return answers

    def _generate(
        self, prompts: Sequence[Sequence[int]], uniforms: Float[Tensor, "rows steps"], most: Int[Tensor, " rows"]
    ) -> list[list[int]]:
        """Let transformers decode prompts of one length; every token is picked as in our loop."""
        tokens = torch.tensor(prompts, device=self.model.device).repeat_interleave(self.settings.samples, 0)
        width, stops = tokens.shape[1], self.stops.tolist()
        answers: list[list[int]] = []
        for rows in torch.arange(len(tokens), device=tokens.device).split(len(tokens) if self._batched else 1):

            def pick(so_far: Tensor, logits: Tensor, rows: Tensor = rows) -> Tensor:
                _check(logits)
                picked = self._pick(logits, uniforms[rows, so_far.shape[1] - width])[:, None]
                return torch.full_like(logits, -torch.inf).scatter(1, picked, 0.0)

            whole = self._run_generate(tokens[rows], int(most.max()), stops or None, [pick])
            answers += [_until_stop(row, stops) for row in whole[:, width:].tolist()]
        return answers

    def _generates_batches(self) -> bool:
        """Tell whether the model's own generation computes a row of a batch as it computes the whole row at once.

        RWKV's of transformers 5.23 mixes rows up after the first token.

        Cost: two new tokens, and one forward pass over six.
        """
        rows = torch.arange(2, 12, device=self.model.device).view(2, 5) % self.model.config.get_text_config().vocab_size
        seen: list[Tensor] = []

        def note(so_far: Tensor, logits: Tensor) -> Tensor:
            seen.append(logits)
            return logits

        whole = self._run_generate(rows, 2, None, [note])
        with torch.no_grad():
            at_once = self.model(input_ids=whole[:, :-1], use_cache=False).logits[:, -1]
        return close_to_rounding(seen[-1], at_once, self.model.dtype)

    def _run_generate(self, tokens: Tensor, most: int, stops: list[int] | None, processors: list[Any]) -> Tensor:
        own = GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=stops, pad_token_id=0, use_cache=True)
        model: Any = base_model_of(self.model)
        if virtual_tokens(self.model):
            raise UserError(
                f"model {type(model).__name__}: keeps no cache that virtual tokens could be put into, so nothing is "
                "sampled from an adapter that prepends some; use a method that changes weights, such as ropo or lora"
            )
        theirs = model.generation_config
        model.generation_config = own  # theirs would fill in what ours leaves open: penalties, beams, forced tokens
        try:
            with telling_of_other_models(model, "sampling"):
                return model.generate(tokens, attention_mask=torch.ones_like(tokens), logits_processor=processors)
        finally:
            model.generation_config = theirs

    def _pick(self, logits: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        if self._readable is not None:
            logits = logits.clone()
            logits[:, self._readable :] = -torch.inf
        return pick_tokens(logits, uniforms, self.settings.temperature, self.settings.top_p)


def _stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " stops"]:
    """Return the ids that end an answer: the generation configuration's and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    known = sorted({token for token in (*ids, tokenizer.eos_token_id) if token is not None})
    return torch.tensor(known, device=model.device, dtype=torch.long)


@torch.no_grad()
def _has_dynamic_cache(model: Any) -> bool:
    """Tell what a model keeps between tokens, by running one; a subclass may keep more than it reorders."""
    with telling_of_other_models(model, "a forward pass with a cache"):
        output = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    return type(getattr(output, "past_key_values", None)) is DynamicCache


def _check(logits: Float[Tensor, "rows vocab"]) -> None:
    if logits.isnan().any():
        raise UserError("model: its next-token logits are NaN, so nothing can be sampled; its weights are broken")


def _until_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """Cut an answer after its first stop token; the rest is padding."""
    return tokens[: next((at for at, token in enumerate(tokens, start=1) if token in stops), len(tokens))]
