"""`ropo merge`: fold an adapter into its base model."""

from __future__ import annotations

__all__ = ()

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ropo.cli.flags import add_strength, at_strength
from ropo.cli.parser import Parser
from ropo.cli.quiet import quiet_libraries
from ropo.core.errors import UserError

if TYPE_CHECKING:
    from ropo.core.record import RunRecord
    from ropo.lm.merging import Merged
    from ropo.lm.sameness import Distance

HELP = "fold an adapter into its base model, as a plain checkpoint or a .gguf file"
_KINDS = ("f16", "q8_0", "bf16", "f32")
_DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("adapter", help="folder of a PEFT adapter, of any method")
    parser.add_argument("--output", required=True, help="folder to make, or .gguf file where the base model is one")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the merged weights; the base model's own if left out")
    parser.add_argument(
        "--quantise", choices=_KINDS, help="type of the changed tensors of a .gguf file; f16 if left out"
    )
    parser.add_argument("--force", action="store_true", help="write the model even if it is another than the adapter's")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output there")
    add_strength(parser)
    parser.add_argument("--trust_remote_code", action="store_true", help="let code that ships with the base model run")


def run(arguments: argparse.Namespace) -> None:
    """Merge in float32, compare with the adapter, save in the dtype of the base model, with the tokenizer."""
    from ropo.core.record import RunRecord
    from ropo.lm.adapters import is_adapter
    from ropo.lm.loading import load_tokenizer
    from ropo.lm.merging import load_unmerged, merge
    from ropo.lm.strength import split_strength

    quiet_libraries()
    source, output = at_strength(arguments.adapter, arguments.strength), Path(arguments.output).resolve()
    if not Path(folder := split_strength(source)[0]).exists():
        raise UserError(f"adapter {folder}: no such folder; check the path")
    if not is_adapter(source):
        raise UserError(f"adapter {source}: the folder has no adapter_config.json; name the output of `ropo train`")
    _check_output(arguments, output)
    record = RunRecord(command=sys.argv[1:], config=vars(arguments))
    tokenizer = load_tokenizer(source, arguments.trust_remote_code)
    merged = merge(load_unmerged(source, arguments.trust_remote_code), tokenizer, source)
    _refuse_unless_forced(merged, arguments.force)
    save = _save_file if output.suffix == ".gguf" else _save_folder
    save(merged, tokenizer, output, arguments, record)


def _check_output(arguments: argparse.Namespace, output: Path) -> None:
    from ropo.core.output import check_output
    from ropo.lm.adapters import adapter_base

    if output.suffix != ".gguf":
        if arguments.quantise:
            raise UserError("quantise: is for an --output that ends in .gguf; a folder has --dtype")
        check_output(output, arguments.overwrite)
        return
    if arguments.dtype:
        raise UserError("dtype: is for an --output folder; a .gguf file has --quantise")
    if output.is_dir() or (output.exists() and not arguments.overwrite):
        raise UserError(f"output {output}: is there already; choose another name, or replace a file with --overwrite")
    base = adapter_base(arguments.adapter)
    if not base.endswith(".gguf"):
        raise UserError(
            f"output {output}: only over a base model that is a .gguf file itself can one be written, not over {base}; "
            "merge into a folder, and run llama.cpp's `python convert_hf_to_gguf.py FOLDER --outfile "
            f"{output.name} --outtype f16`"
        )
    if Path(base).resolve() == output:
        raise UserError(f"output {output}: is the base model itself; choose another name")


def _save_folder(
    merged: Merged, tokenizer: Any, output: Path, arguments: argparse.Namespace, record: RunRecord
) -> None:
    """Save a checkpoint of transformers in the dtype of the base model, or the one that was asked for."""
    import torch

    from ropo.core.output import display, finished_folder
    from ropo.lm.adapters import adapter_base
    from ropo.lm.fingerprint import fingerprint_source
    from ropo.lm.merging import stored_dtype

    named, model = arguments.dtype, cast(Any, merged.model)
    base = adapter_base(merged.source)
    dtype = getattr(torch, named) if named else stored_dtype(base, arguments.trust_remote_code)
    with finished_folder(output, arguments.overwrite) as folder:
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found = _compare_saved(merged, folder, arguments)
        metrics = {"parameters": model.num_parameters(), "sha256": fingerprint_source(str(folder))}
        record.finish(metrics | {"merged": asdict(found), "base": asdict(merged.effect)}).write(folder)
    print(f"saved the merged model ({model.num_parameters():,} parameters, {dtype}) in {display(output)}")
    name = str(dtype).removeprefix("torch.")
    print(_told(merged, found, name, "" if name == "float32" else "--dtype float32"))


def _save_file(merged: Merged, tokenizer: Any, output: Path, arguments: argparse.Namespace, record: RunRecord) -> None:
    """Save a .gguf file, and beside it what a folder's run.json says."""
    from ropo.core.files import replace_atomically, write_atomically
    from ropo.core.output import display
    from ropo.lm.adapters import adapter_base
    from ropo.lm.gguf_output import Written, write_gguf

    base, kind = Path(adapter_base(merged.source)), arguments.quantise or "f16"
    written: list[Written] = []
    replace_atomically(output, lambda file: written.append(write_gguf(merged.model, base, file, kind)))
    changed, kept = written[0].changed, written[0].kept
    found = merged.distance_of(merged.model)
    metrics = {"changed": changed, "merged": asdict(found), "base": asdict(merged.effect)}
    write_atomically(
        output.with_name(f"{output.name}.run.json"), record.finish(metrics).model_dump_json(indent=2) + "\n"
    )
    types = ", ".join(f"{list(changed.values()).count(each)} as {each}" for each in sorted(set(changed.values())))
    print(f"saved the merged model in {display(output)}: {len(changed)} tensors anew ({types}), {kept} as they were")
    print(_told(merged, found, kind, "" if kind == "f32" else "--quantise f32"))


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


def _told(merged: Merged, found: Distance, name: str, wider: str) -> str:
    line = f"beside the adapter, in {name}: {found}; the adapter itself is KL {merged.effect.kl:.2g} from its base"
    if found.kl >= merged.effect.kl > 0 and wider:
        line += f"; rounding to {name} undoes what it learned: merge with {wider}"
    return line
