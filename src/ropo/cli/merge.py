"""`ropo merge`: fold an adapter into its base model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropo.cli.parser import Parser
from ropo.cli.quiet import quiet_libraries
from ropo.cli.strength import add_strength, at_strength
from ropo.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

HELP = "fold an adapter into its base model, as a plain checkpoint"


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("adapter", help="folder of a PEFT adapter, of any method")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output there")
    add_strength(parser)
    parser.add_argument("--trust_remote_code", action="store_true", help="let code that ships with the base model run")


def run(arguments: argparse.Namespace) -> None:
    """Merge in float32, save in the dtype of the base model, with the tokenizer."""
    from ropo.core.output import check_output, display, finished_folder
    from ropo.core.record import RunRecord
    from ropo.lm.fingerprint import fingerprint_source
    from ropo.lm.loading import is_adapter, load_tokenizer

    quiet_libraries()
    source, output = at_strength(arguments.adapter, arguments.strength), Path(arguments.output).resolve()
    if not is_adapter(source):
        raise UserError(f"adapter {source}: the folder has no adapter_config.json; name the output of `ropo train`")
    check_output(output, arguments.overwrite)
    record = RunRecord(command=sys.argv[1:], config=vars(arguments))
    tokenizer = load_tokenizer(source, arguments.trust_remote_code)
    model = merge_adapter(source, arguments.trust_remote_code)
    with finished_folder(output, arguments.overwrite) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record.finish({"parameters": model.num_parameters(), "sha256": fingerprint_source(str(folder))}).write(folder)
    print(f"saved the merged model ({model.num_parameters():,} parameters, {model.dtype}) in {display(output)}")


def merge_adapter(source: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the base model with an adapter folded in.

    Args:
        source: Folder of a PEFT adapter, also at a strength, as in `DIR@0.5`.
        trust_remote_code: Whether code that ships with the base model may run.

    Returns:
        A plain model in the dtype of the base model.

    Raises:
        UserError: If the merged weights are not finite, or those of the base model cannot be dequantised.

    Cost: the base model in float32; each weight is rounded once, at the end.
    """
    import torch

    from ropo.lm.loading import adapter_base, dequantised, load_adapter, load_model

    name = adapter_base(source)
    policy: Any = load_adapter(dequantised(load_model(name, torch.float32, trust_remote_code)), source)
    dtype = _stored_dtype(name, trust_remote_code)
    try:
        merged = policy.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"adapter {source}: cannot be merged ({error}); train it again") from error
    return merged.to(dtype)


def _stored_dtype(model: str, trust_remote_code: bool = False) -> torch.dtype:
    """Return the dtype a checkpoint is stored in; float32 for GGUF files, and where its configuration is silent."""
    import torch
    from transformers import AutoConfig

    if model.endswith(".gguf"):
        return torch.float32
    return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code).dtype or torch.float32
