"""What a run would take: memory by part before any weight is loaded, and settings that fit a GPU."""

from __future__ import annotations

__all__ = ["print_plan"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any

import psutil
import torch
from accelerate import PartialState
from peft import PeftConfig
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.record import device_name
from ropo.lm.adapters import adapter_config_of, is_adapter
from ropo.lm.loading import load_shapes, load_tokenizer
from ropo.lm.tokens import Limits, TokenPair, tokenize_pair
from ropo.preferences.data import PreferenceData
from ropo.runs.inputs import choose_method, load_pairs, weights_dtype
from ropo.runs.options import TrainOptions, trainer_config
from ropo.training.config import PreferenceConfig
from ropo.training.memory import ROOM, Lengths, Memory, estimate, tighter, trained_parameters

_GB = 1e9


@dataclass(frozen=True)
class _Plan:
    """Estimate steps of one run."""

    source: str
    dtype: torch.dtype | None
    adapter: PeftConfig | None
    pairs: int  # in the data
    lengths: Sequence[Lengths]  # of those that training keeps
    config: PreferenceConfig
    bits: int | None
    device: str

    @property
    def batch(self) -> list[Lengths]:
        """The longest pairs, as many as a batch has: the most that any step computes."""
        return sorted(self.lengths, key=lambda each: each.packed)[-self.config.per_device_train_batch_size :]

    @property
    def tokens(self) -> int:
        """Packed tokens of that batch."""
        return sum(each.packed for each in self.batch)

    def shapes(self) -> Any:
        """Return the model without numbers, a new one each time."""
        return load_shapes(self.source, self.dtype, self.config.trust_remote_code)

    @cached_property
    def memory(self) -> Callable[[bool, int | None], Memory]:
        """What estimates the peak of a step by checkpointing and a budget of tokens, each of them once."""
        return cache(self._memory)

    def _memory(self, checkpointing: bool, budget: int | None) -> Memory:
        model = self.shapes()
        half = {True: torch.bfloat16, False: model.dtype}[bool(self.config.bf16)]
        return estimate(
            model,
            self.adapter,
            self.batch,
            self.device,
            torch.float16 if self.config.fp16 else half,
            checkpointing,
            budget,
            self.bits,
            reference=self.adapter is None and not self.config.precompute_ref_log_probs,
        )


def print_plan(options: TrainOptions, console: Console) -> None:
    """Say what would be trained and what memory it takes, and load no weight.

    Raises:
        UserError: If anything in the options, in the data or in the model's configuration is wrong.
    """
    method, adapter = choose_method(options)
    config = trainer_config(options, 0.0, options.output)
    tokenizer = load_tokenizer(options.model, config.trust_remote_code)
    pairs = load_pairs(options, "data", tokenizer, config, console)
    plan = plan_of(options, method, adapter, pairs, tokenizer, config)
    for line in _plan_lines(plan, method, free_memory(plan.device)):
        console.print(line)


def plan_of(
    options: TrainOptions,
    method: str,
    adapter: PeftConfig | None,
    pairs: PreferenceData,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferenceConfig,
) -> _Plan:
    """Return what estimates the run's memory."""
    device = "cuda" if config.device.type == "cuda" else "cpu"
    dtype = weights_dtype(options.dtype, method, on_gpu=device == "cuda")
    if is_adapter(options.model):
        adapter = adapter_config_of(options.model)
        adapter.inference_mode = False
    lengths = _pair_lengths(pairs, tokenizer, config)
    return _Plan(options.model, dtype, adapter, len(pairs), lengths, config, options.bits, device)


def fits_itself(options: TrainOptions, config: PreferenceConfig) -> bool:
    """Tell whether a GPU's memory chooses settings: neither was given, and one process has all weights."""
    given = any(name in options.trainer for name in ("gradient_checkpointing", "tokens_per_step"))
    return config.device.type == "cuda" and PartialState().num_processes == 1 and not given


def fitted_to_gpu(options: TrainOptions, make: Callable[[], _Plan], console: Console) -> TrainOptions:
    """Choose gradient checkpointing and a budget of tokens for the GPU's memory, by an estimate."""
    free = free_memory("cuda")
    try:
        checkpointing, budget = settings_that_fit(make(), free)
    except UserError:  # a model that cannot be packed, of which nothing is known beforehand
        return options
    if not checkpointing:
        return options
    flags = {"gradient_checkpointing": True, **({} if budget is None else {"tokens_per_step": budget})}
    told = " ".join(f"--{name} {value}" for name, value in flags.items())
    console.print(f"memory    {free / 1e9:.1f} GB are free, so {told}; give either to choose yourself")
    return replace(options, trainer={**options.trainer, **flags})


def _pair_lengths(data: PreferenceData, tokenizer: PreTrainedTokenizerBase, config: PreferenceConfig) -> list[Lengths]:
    """Return the tokens of the pairs that training would keep, cut as it cuts them; two thousand pairs per second."""
    pairs = [tokenize_pair(tokenizer, pair) for pair in data.pairs]
    found = [_lengths(config.limits, pair) for pair in pairs if pair.is_complete and config.limits.leave_room(pair)]
    if config.tokens_per_step is not None:
        found = [each for each in found if each.packed <= config.tokens_per_step]
    if not found:
        raise UserError(
            f"data: none of the {len(pairs)} pairs can be trained on: they have no tokens, or exceed max_length or "
            "tokens_per_step; raise these"
        )
    return found


def _lengths(limits: Limits, pair: TokenPair) -> Lengths:
    """Count what is left of a pair; where its answers keep different parts of their prompt, they share none."""
    (prompt, chosen), (other, rejected) = limits.cut(pair)
    shared = len(prompt) if len(prompt) == len(other) else len(prompt) + len(other) - 1
    return Lengths(shared, len(chosen), len(rejected))


def free_memory(device: str) -> int:
    """Return the bytes that are free on the device."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def _plan_lines(plan: _Plan, method: str, free: int) -> Iterator[str]:
    """Say what would be trained, on how much, and what of the memory it takes."""
    if left := plan.pairs - len(plan.lengths):
        yield f"          {left} of them left out in training: without tokens, or longer than tokens_per_step"
    model = plan.shapes()
    size, dtype = model.num_parameters(), str(model.dtype).removeprefix("torch.")
    trained = trained_parameters(model, plan.adapter)
    stored = f"{plan.bits} bits" if plan.bits else dtype
    yield f"model     {plan.source} ({size:,} parameters, {stored}, {device_name()})"
    yield f"method    {method}, {trained:,} trainable parameters ({trained / size:.4%} of the model's)"
    mean = sum(each.packed for each in plan.lengths) / len(plan.lengths)
    budget, checkpointing = plan.config.tokens_per_step, plan.config.gradient_checkpointing
    cut = "" if budget is None else f", at most {budget:,} at once"
    yield (
        f"tokens    {mean:,.0f} a pair on average, {plan.batch[-1].packed:,} in the longest, {plan.tokens:,} in the "
        f"{len(plan.batch)} longest together{cut}"
    )
    memory = plan.memory(checkpointing, budget)
    for part in fields(memory):
        if value := getattr(memory, part.name):
            yield f"memory    {part.name:<12}{value / _GB:8.2f} GB"
    fits = "fits" if memory.total <= ROOM * free else "is too much"
    yield f"          {'at the peak':<12}{memory.total / _GB:8.2f} GB, of {free / _GB:.1f} GB that are free: {fits}"
    if memory.total > ROOM * free:
        on, cut_to = settings_that_fit(plan, free)
        flags = "--gradient_checkpointing" * on + (f" --tokens_per_step {cut_to}" if cut_to else "")
        yield f"try       {flags}: {plan.memory(on, cut_to).total / _GB:.2f} GB"


def settings_that_fit(plan: _Plan, free: int) -> tuple[bool, int | None]:
    """Choose gradient checkpointing, and `tokens_per_step`, for the memory that is free."""
    longest = max(each.packed for each in plan.lengths)
    return fit(lambda on, budget: plan.memory(on, budget).total, ROOM * free, longest, plan.tokens)


def fit(peak: Callable[[bool, int | None], int], room: float, longest: int, tokens: int) -> tuple[bool, int | None]:
    """Return the fastest settings whose peak fits: plain, else checkpointing, else with a budget of tokens besides.

    Args:
        peak: The estimate for checkpointing and a budget.
        room: Bytes that it may take.
        longest: Tokens of the longest pair, below which no budget goes: the pair would be left out.
        tokens: Tokens of the largest batch.
    """
    settings: tuple[bool, int | None] = (False, None)
    while peak(*settings) > room:
        following = tighter(*settings, tokens, longest)
        if following is None:
            return True, settings[1] or tokens
        settings = following
    return settings
