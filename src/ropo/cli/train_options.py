"""The options of `ropo train`: its own, the adapter's, and every one of the trainer's."""

from __future__ import annotations

__all__ = ()

import argparse
from argparse import SUPPRESS
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ropo.cli.config_file import read_config
from ropo.cli.parser import Parser
from ropo.core.errors import UserError
from ropo.methods import METHODS
from ropo.runs.options import DTYPES, MONITOR_STEPS, TRAINER_DEFAULTS, TrainOptions
from ropo.training.config import PreferenceConfig
from ropo.training.remedies.options import RemedyOptions

_TRAINER_TYPES = get_type_hints(PreferenceConfig)
_SWITCH: dict[str, Any] = {"type": string_to_bool, "nargs": "?", "const": True, "metavar": "BOOL"}

_ADAPTER_OPTIONS: dict[str, dict[str, Any]] = {
    "target_modules": {"nargs": "+", "metavar": "NAME", "help": "layers to adapt (q_proj and v_proj, or the like)"},
    "exclude_modules": {"nargs": "+", "metavar": "NAME", "help": "layers not to adapt"},
    "layers_to_transform": {"nargs": "+", "type": int, "metavar": "N", "help": "transformer layers to adapt (all)"},
    "reflections": {"type": int, "metavar": "N", "help": "ropo: Householder reflections, an even number (2)"},
    "givens": {"help": "ropo: trees of rotations: bidirectional, forward or none (bidirectional)"},
    "magnitude": {**_SWITCH, "help": "ropo: train each neuron's length, as the paper does (false)"},
    "r": {"type": int, "metavar": "N", "help": "lora: rank (8); hra: reflections (8)"},
    "lora_alpha": {"type": int, "metavar": "N", "help": "lora: scale of the update times r (16)"},
    "use_dora": {**_SWITCH, "help": "lora: DoRA, which trains each neuron's length beside its direction (false)"},
    "oft_block_size": {"type": int, "metavar": "N", "help": "oft: size of the rotated blocks (32)"},
}

# The trainer has some 150 options; `--help` shows these, `--help_all` every one.
_USUAL_OPTIONS = (
    "learning_rate",
    "beta",
    "loss_type",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "lr_scheduler_type",
    "warmup_steps",
    "gradient_checkpointing",
    "packing",
    "tokens_per_step",
    "skip_non_finite",
    "logging_steps",
    "save_strategy",
    "resume_from_checkpoint",
    "seed",
)

# What `trl dpo` calls the same thing.
_ALIASES = {
    "model": ("model_name_or_path",),
    "data": ("dataset_name",),
    "split": ("dataset_train_split",),
    "eval_split": ("dataset_test_split",),
    "r": ("lora_r",),
    "dtype": ("torch_dtype",),
    "target_modules": ("lora_target_modules",),
}
# What `trl dpo` has and `ropo train` has not, with what to do instead.
FOREIGN = {
    "use_peft": "an adapter is trained anyway; name it with --method (ropo, lora, oft, hra), or give --method full",
    "attn_implementation": "the attention is chosen for packed batches; leave it out, or give --packing false",
    "model_revision": "download that revision and give --model its folder",
    "dataset_config": "download that configuration and give --data its folder or file",
    "dataset_streaming": "pairs are read as a whole; leave it out (PreferenceTrainer takes streams)",
    "lora_dropout": "dropout is off in preference training, in TRL too (disable_dropout); leave it out",
    "lora_target_parameters": "use --target_modules",
    "lora_modules_to_save": "ropo train trains the adapter alone; train them with PreferenceTrainer",
    "lora_task_type": "it is CAUSAL_LM; leave it out",
    "use_rslora": "train it with PreferenceTrainer(peft_config=LoraConfig(use_rslora=True))",
    "ignore_bias_buffers": "is not needed; leave it out",
}
_QUANTISE = "--load_in_4bit is NF4 and computes in --dtype; for other settings quantise it for PreferenceTrainer"
FOREIGN |= dict.fromkeys(("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"), _QUANTISE)

# What earlier versions of TRL had, and files for `trl` hold beside its options.
FOREIGN |= {
    "datasets": "put the files of the mixture into one folder, and give --data the folder",
    "streaming": "pairs are read as a whole; leave it out (PreferenceTrainer takes streams)",
    "test_split_size": "split the file, and give --eval_data the held-out part",
    "env": "set environment variables before the command: NAME=VALUE ropo train ...",
    "max_prompt_length": "TRL has no such option any more; --max_length cuts prompt and answer together",
    "max_completion_length": "TRL has no such option any more; --max_length cuts prompt and answer together",
    "max_target_length": "TRL has no such option any more; --max_length cuts prompt and answer together",
    "generate_during_eval": "the monitor samples answers to held-out prompts (--eval_data); leave it out",
    "ref_model": "the reference is the model that training starts from; leave it out, or use PreferenceTrainer",
    "reference_free": "TRL has no such option any more; leave it out",
    "peft_config": "name the method with --method, and give its options as flags of their own",
    "model_adapter_name": "give --model the adapter's folder to train it further",
    "ref_adapter_name": "the reference is the model that training starts from; leave it out",
}
FOREIGN["ref_model_name_or_path"] = FOREIGN["ref_model"]

# What TRL takes from a file as it is written there, though its flag takes one text.
STRUCTURES: dict[str, type] = {"report_to": list, "optim_target_modules": list, "liger_kernel_config": dict}


def add_train_options(parser: Parser, show_all: bool = False) -> None:
    """Declare every flag, without defaults: what was not given stays out of the parsed namespace."""
    parser.usage = f"{parser.prog} --model MODEL --data DATA --output FOLDER [flags]"
    parser.foreign, parser.structures = FOREIGN, STRUCTURES
    own = parser.add_argument_group("what to train, on what")
    own.add_argument(*_names("model"), help="hub id, folder or .gguf file; or an adapter to train further")
    own.add_argument(*_names("data"), help="preference pairs: hub id, folder, or .jsonl, .json or .parquet file")
    own.add_argument(*_names("split"), help="split of --data, where it has splits (train)")
    own.add_argument("--eval_data", help="held-out pairs, measured before and after")
    own.add_argument(*_names("eval_split"), help="split of --eval_data, where it has splits (test)")
    own.add_argument("--output", "--output_dir", dest="output", help="folder to make")
    own.add_argument("--overwrite", **_SWITCH, help="replace an earlier output there")
    own.add_argument("--resume", **_SWITCH, help="carry on a run that did not finish there, from its last checkpoint")
    own.add_argument("--config", type=Path, metavar="FILE.yaml", help="file of options; flags win over it")
    own.add_argument("--method", choices=tuple(METHODS), help="what to train (ropo)")
    own.add_argument(
        *_names("dtype"), choices=DTYPES, help="dtype of the weights (auto: float32 on CPU, else as stored)"
    )
    own.add_argument("--load_in_4bit", **_SWITCH, help="quantise the frozen weights to 4 bits (NF4, by bitsandbytes)")
    own.add_argument("--load_in_8bit", **_SWITCH, help="quantise the frozen weights to 8 bits (by bitsandbytes)")
    plan = "say what would be trained and what memory it takes; load no weights"
    own.add_argument("--plan", "--dry_run", dest="plan", **_SWITCH, help=plan)
    own.add_argument("--plain_prompts", **_SWITCH, help="keep text prompts as they are, past the chat template")
    own.add_argument("--skip_long_prompts", **_SWITCH, help="leave out pairs whose prompt alone fills max_length")
    own.add_argument("--help_all", action=_ShowAll, nargs=0, help="show every option of the trainer and exit")
    adapter = parser.add_argument_group("adapter")
    for name, options in _ADAPTER_OPTIONS.items():
        adapter.add_argument(*_names(name), **options)
    title = (
        "every option of the trainer" if show_all else "trainer (any option of trl.DPOConfig; these are the usual ones)"
    )
    _add_monitor_options(parser.add_argument_group("watching for reward hacking and forgetting (needs --eval_data)"))
    remedies = {each.name for each in fields(RemedyOptions)}
    _add_trainer_options(
        parser.add_argument_group("remedies (docs/remedies.md says which for what)"), remedies, lambda action: True
    )
    others = {each.name for each in fields(PreferenceConfig)} - remedies
    _add_trainer_options(parser.add_argument_group(title), others, lambda action: show_all or _is_usual(action))
    for action in parser._actions:
        action.default = SUPPRESS


def _names(name: str) -> tuple[str, ...]:
    """Return an option's flags: ours first, which is what it is kept as, then TRL's as TRL writes them."""
    aliases = _ALIASES.get(name, ())
    return tuple(f"--{each}" for each in (name, *aliases, *(alias.replace("_", "-") for alias in aliases)))


def _add_monitor_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--monitor_steps", type=int, metavar="K", help=f"steps between two measurements ({MONITOR_STEPS}; 0 for none)"
    )
    group.add_argument("--monitor_text", type=Path, metavar="FILE", help="plain text whose loss shows forgetting")
    group.add_argument("--stop_on_warning", **_SWITCH, help="end training at the first warning (false)")
    group.add_argument(
        "--stop_at_kl",
        type=float,
        metavar="B",
        help="end training where KL(policy || reference), in nats per token of the policy's own answers, exceeds B and "
        "keep the weights of the last measurement within it",
    )


def _is_usual(action: argparse.Action) -> bool:
    return action.dest in _USUAL_OPTIONS and not action.option_strings[0].startswith("--no_")


def _add_trainer_options(
    group: argparse._ArgumentGroup, names: Collection[str], shown: Callable[[argparse.Action], bool]
) -> None:
    for field in fields(PreferenceConfig):
        if field.init and field.name in names and field.name != "output_dir":
            field.type = _TRAINER_TYPES[field.name]
            HfArgumentParser._parse_dataclass_field(group, field)  # type: ignore[arg-type]
    _add_negations(group)
    for action in group._group_actions:
        default = "by method" if action.dest == "learning_rate" else TRAINER_DEFAULTS.get(action.dest, action.default)
        action.metavar, action.help = "VALUE", f"{action.help} ({default})"
        if action.type is string_to_bool:  # `--bf16` alone, which transformers leaves out where the default is None
            action.nargs, action.const = "?", True
        if not shown(action):
            action.help = SUPPRESS


def _add_negations(group: argparse._ArgumentGroup) -> None:
    """Add `--no_x` where transformers does not, since our default is off where TRL's is on."""
    known = {flag for action in group._group_actions for flag in action.option_strings}
    for action in list(group._group_actions):
        flags = [f"--no_{action.dest}", f"--no-{action.dest.replace('_', '-')}"]
        if action.type is string_to_bool and flags[0] not in known:
            group.add_argument(*dict.fromkeys(flags), action="store_false", dest=action.dest, help=action.help)


class _ShowAll(argparse.Action):
    """Print the help of every option."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        """Print and exit."""
        full = Parser(prog=parser.prog, description=parser.description)
        add_train_options(full, show_all=True)
        full.print_help()
        parser.exit()


def read_train_options(arguments: argparse.Namespace) -> TrainOptions:
    """Merge the flags over the configuration file, and check that nothing needed is missing.

    Raises:
        UserError: If the file is wrong, or `model`, `data` or `output` is given nowhere.
    """
    flags = dict(vars(arguments))
    parser = Parser(prog="ropo train")
    add_train_options(parser)
    file = flags.pop("config", None)
    given = {**(read_config(file, parser) if file else {}), **flags}
    for name, value in given.items():
        if value is None and name in _TRAINER_TYPES and type(None) not in get_args(_TRAINER_TYPES[name]):
            raise UserError(f"{name}: must not be null; leave it out for its default")
    for name in ("model", "data", *([] if given.get("plan") else ["output"])):
        if given.get(name) is None:
            raise UserError(f"--{name} is missing; give it as a flag or in the --config file")
    own = {each.name for each in fields(TrainOptions)}
    options = {name: value for name, value in given.items() if name in own and value is not None}
    options |= {"model": _absolute(given["model"]), "bits": _bits(given)}
    options["output"] = Path(given.get("output") or "output").resolve()
    options["adapter"] = {name: value for name in _ADAPTER_OPTIONS if (value := given.get(name)) is not None}
    options["trainer"] = {name: value for name, value in given.items() if name in _TRAINER_TYPES}
    return TrainOptions(**options)


def _bits(given: dict[str, Any]) -> int | None:
    bits = [number for number in (4, 8) if given.get(f"load_in_{number}bit")]
    if len(bits) > 1:
        raise UserError("load_in_4bit: cannot be combined with --load_in_8bit; leave one of them out")
    return bits[0] if bits else None


def _absolute(model: str) -> str:
    """Make a local path absolute: the adapter remembers it, and will be used from other folders."""
    return str(Path(model).resolve()) if Path(model).exists() else model
