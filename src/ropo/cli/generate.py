"""`ropo generate`: sample answers from a model or an adapter."""

from __future__ import annotations

__all__ = ()

import argparse
import json
from dataclasses import asdict

from ropo.cli.flags import add_sampling_arguments, add_strength, at_strength, sampling_settings
from ropo.cli.quiet import quiet_libraries
from ropo.core.files import write_atomically
from ropo.core.progress import show_progress

HELP = "sample answers to a file of prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ropo generate`."""
    parser.add_argument("model", metavar="MODEL_OR_ADAPTER", help="hub id, folder, .gguf file or PEFT adapter folder")
    add_strength(parser)
    add_sampling_arguments(parser, samples=1, temperature=0.7, top_p=1.0)


def run(args: argparse.Namespace) -> None:
    """Write each prompt's record with its answers; an interrupted run continues where it stopped."""
    from ropo.lm.sampling import (
        Sampler,
        describe_prompts,
        model_name,
        read_prompts,
        sample_with_journal,
    )

    quiet_libraries()
    settings = sampling_settings(args)
    source = at_strength(args.model, args.strength)
    prompts = read_prompts(args.prompts)
    print(describe_prompts(prompts))
    journal = args.output.with_name(args.output.name + ".unfinished")
    with show_progress("sampling answers to prompts", len(prompts)) as advance, Sampler(source) as sampler:
        answers = sample_with_journal(
            sampler, prompts, settings, args.batch_size, journal, lambda batch: advance(len(batch.prompts))
        )

    sampling = {"model": model_name(source), **asdict(settings)}
    records = (
        {
            **prompt.fields,
            "outputs": [answer.text for answer in answers[number]],
            "output_tokens": [len(answer.tokens) for answer in answers[number]],
            "finished": [answer.finished for answer in answers[number]],
            "sampling": sampling,
        }
        for number, prompt in enumerate(prompts)
    )
    write_atomically(args.output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    journal.unlink(missing_ok=True)  # another process that did the same may have been first
    print(f"{len(prompts)} prompts, {len(prompts) * settings.samples} answers: {args.output}")
