"""From prompts to a file of preference pairs."""

from __future__ import annotations

__all__ = ()

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from ropo.core.errors import UserError
from ropo.core.files import write_atomically
from ropo.judging.judge import Judge
from ropo.lm.sampling import Batch, PromptRecord, Sampler, SamplingSettings, model_name, sample_with_journal
from ropo.pairs.selection import Dropped, Pair, ScoredAnswer, Selection, match_lengths, select_pairs
from ropo.pairs.summary import InstructionRow, summarise


@dataclass(frozen=True)
class MadePairs:
    """The pairs that were written, why prompts gave none, and the figures of each kind of instruction."""

    pairs: list[Pair]
    dropped: Counter[str]
    rows: list[InstructionRow]


def answers_path(output: Path) -> Path:
    """Return where the sampled answers are kept: other scorers and strategies can use them again."""
    return output.with_name(f"{output.stem}.answers.jsonl")


def make_pairs(
    source: str,
    prompts: Sequence[PromptRecord],
    output: Path,
    judge: Judge,
    sampling: SamplingSettings,
    selection: Selection,
    batch_size: int,
    on_batch: Callable[[Batch], None],
) -> MadePairs:
    """Sample answers, score them, choose pairs and write them.

    Sampled answers are kept beside the output, batch by batch; a run that is killed, or stopped by its judge,
    continues from them. The output appears complete or not at all.

    Args:
        source: The policy: whatever `ropo.lm.loading.load_policy` takes.
        prompts: What to answer.
        output: The JSON Lines file to write, in TRL's conversational preference format.
        judge: Gives each answer a number; one without a verdict is not used.
        sampling: How to sample.
        selection: How to choose.
        batch_size: Answers that are decoded at once.
        on_batch: Called after each batch is sampled and scored.

    Returns:
        What was written and what was not.

    Raises:
        UserError: If the judge fails or returns something else than finite numbers, or no pair is left.
    """
    for prompt in prompts:  # costs nothing, so mistakes in them are found before sampling
        judge.check(prompt)
    candidates: dict[int, list[ScoredAnswer]] = {}

    def score(batch: Batch) -> None:
        for number, answers in zip(batch.prompts, batch.answers, strict=True):
            verdicts = judge.grade(prompts[number], [answer.text for answer in answers])
            candidates[number] = [
                ScoredAnswer(answer.text, len(answer.tokens), answer.finished, verdict.value)
                for answer, verdict in zip(answers, verdicts, strict=True)
                if verdict.value is not None
            ]
        on_batch(batch)

    with Sampler(source) as sampler:
        if sampler.tokenizer.chat_template is None:
            raise UserError(
                f"model {source}: its tokenizer has no chat template, which pairs of messages need; use an "
                "instruction-tuned model, or set chat_template in its tokenizer_config.json"
            )
        sample_with_journal(sampler, prompts, sampling, batch_size, answers_path(output), score)
    pairs, dropped = _choose(candidates, selection, sampling.seed)
    rows = summarise(prompts, dict(sorted(candidates.items())), pairs, selection.threshold)
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        raise UserError(f"no pair is left ({reasons}); sample more or longer answers, or loosen the selection")
    settings = {"model": model_name(source), **asdict(sampling)}
    records = (_to_record(pair, prompts[pair.prompt], judge.name, settings) for pair in pairs)
    write_atomically(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return MadePairs(pairs, dropped, rows)


def _choose(
    candidates: Mapping[int, Sequence[ScoredAnswer]], selection: Selection, seed: int
) -> tuple[list[Pair], Counter[str]]:
    """Choose the pairs of all prompts, in the order of the prompts, and count why prompts gave none."""
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for number in sorted(candidates):
        chosen = select_pairs(number, candidates[number], selection, Random(f"{seed} {number}"))
        if isinstance(chosen, Dropped):
            dropped[chosen] += 1
        else:
            pairs += chosen
    if not selection.match_lengths:
        return pairs, dropped
    matched = match_lengths(pairs)
    lost = len({pair.prompt for pair in pairs}) - len({pair.prompt for pair in matched})
    return matched, dropped + Counter({Dropped.LENGTH: lost})


def _to_record(pair: Pair, prompt: PromptRecord, scorer: str, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pair as a record that TRL and `ropo train` read; the prompt's other fields are kept."""
    return {
        **prompt.others,
        "prompt": prompt.turns,
        **prompt.options,
        "chosen": [{"role": "assistant", "content": pair.chosen.text}],
        "rejected": [{"role": "assistant", "content": pair.rejected.text}],
        "score_chosen": pair.chosen.score,
        "score_rejected": pair.rejected.score,
        "tokens_chosen": pair.chosen.tokens,
        "tokens_rejected": pair.rejected.tokens,
        "scorer": scorer,
        "sampling": dict(sampling),
    }
