"""`ropo merge`: fold an adapter into its base model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropo.cli.parser import Parser
from ropo.cli.quiet import quiet_libraries
from ropo.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from ropo.lm.merging import Merged
    from ropo.lm.sameness import Distance

HELP = "fold an adapter into its base model, as a plain checkpoint"
_DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("adapter", help="folder of a PEFT adapter, of any method")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the merged weights; the base model's own if left out")
    parser.add_argument("--force", action="store_true", help="write the model even if it is another than the adapter's")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output there")
    parser.add_argument("--trust_remote_code", action="store_true", help="let code that ships with the base model run")


def run(arguments: argparse.Namespace) -> None:
    """Merge in float32, compare with the adapter, save in the dtype of the base model, with the tokenizer."""
    import torch

    from ropo.cli.output import check_output, display, finished_folder
    from ropo.core.record import RunRecord
    from ropo.lm.fingerprint import fingerprint_source
    from ropo.lm.loading import adapter_base, is_adapter, load_tokenizer
    from ropo.lm.merging import load_unmerged, merge, stored_dtype

    quiet_libraries()
    source, output = arguments.adapter, Path(arguments.output).resolve()
    if not is_adapter(source):
        raise UserError(f"adapter {source}: the folder has no adapter_config.json; name the output of `ropo train`")
    check_output(output, arguments.overwrite)
    record = RunRecord(command=sys.argv[1:], config=vars(arguments))
    tokenizer = load_tokenizer(source, arguments.trust_remote_code)
    policy = load_unmerged(source, arguments.trust_remote_code)
    named = arguments.dtype
    dtype = getattr(torch, named) if named else stored_dtype(adapter_base(source), arguments.trust_remote_code)
    merged = merge(policy, tokenizer, source)
    del policy
    _refuse_unless_forced(merged, arguments.force)
    model: Any = merged.model
    with finished_folder(output, arguments.overwrite) as folder:
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found = _compare_saved(merged, folder, arguments)
        metrics = {"parameters": model.num_parameters(), "sha256": fingerprint_source(str(folder))}
        record.finish(metrics | {"merged": asdict(found), "base": asdict(merged.effect)}).write(folder)
    print(f"saved the merged model ({model.num_parameters():,} parameters, {dtype}) in {display(output)}")
    print(_told(merged, found, dtype))


def _refuse_unless_forced(merged: Merged, force: bool) -> None:
    try:
        merged.check()
    except UserError as error:
        if not force:
            raise
        print(f"ropo merge: warning: {error} (--force was given)", file=sys.stderr)


def _compare_saved(merged: Merged, folder: Path, arguments: argparse.Namespace) -> Distance:
    import torch

    from ropo.lm.loading import load_model

    trust = arguments.trust_remote_code
    if arguments.force:
        return merged.distance_of(load_model(str(folder), torch.float32, trust))
    return merged.check_saved(folder, trust)


def _told(merged: Merged, found: Distance, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    line = f"beside the adapter, in {name}: {found}; the adapter itself is KL {merged.effect.kl:.2g} from its base"
    if found.kl >= merged.effect.kl > 0 and name != "float32":
        line += f"; rounding to {name} undoes what it learned: merge with --dtype float32"
    return line
