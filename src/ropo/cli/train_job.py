"""What `ropo train` does with its options: load, check, train, save, and say so."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ropo.cli.output import check_output, display, finished_folder, working_folder
from ropo.cli.processes import by_the_first, rank, take_leave, telling_of_lost_processes
from ropo.cli.resume import choose_checkpoint, continue_record, is_finished, telling_of_full_disk
from ropo.cli.train_options import TrainOptions, trainer_config
from ropo.cli.train_plan import Plan, free_memory, pair_lengths, plan_lines, settings_that_fit
from ropo.cli.train_report import report
from ropo.core.errors import UserError
from ropo.core.files import read_text
from ropo.core.record import RunRecord, Source, device_name
from ropo.environment import untested_lines
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.held_out import wraps_prompts
from ropo.lm.loading import adapter_base, adapter_config_of, is_adapter, load_adapter, load_model, load_tokenizer
from ropo.lm.templating import unread_lines
from ropo.lm.tokens import holds_templated_prompt
from ropo.methods import METHODS, adapter_config, check_target_modules
from ropo.preferences.data import PreferenceData, count_shared_prompts, load_preferences
from ropo.training.callbacks.progress import Progress
from ropo.training.callbacks.safekeeping import Safekeeping
from ropo.training.card import CardFacts
from ropo.training.checkpoints.folder import checkpoints_of
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.sharding import without_deepspeed
from ropo.training.lengths import check_templates, leave_out_long_prompts
from ropo.training.monitor import HackingMonitor
from ropo.training.run import build_trainer, push, run_trainer, save_trained
from ropo.training.trainer import PreferenceTrainer

Model = PreTrainedModel | PeftModel
CHECKPOINT_SECONDS = 300.0


def train(options: TrainOptions) -> None:
    """Train as the options say.

    Raises:
        UserError: If anything in them, in the data or in the model is wrong; nothing is left behind then.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=rank() > 0)
    method, adapter = choose_method(options)
    learning_rate = METHODS.get(method, METHODS["lora"]).learning_rate  # an adapter may be of any PEFT method
    config = trainer_config(options, learning_rate, working_folder(options.output))
    if by_the_first(lambda: options.resume and is_finished(options.output)):
        console.print(f"resume    the run in {display(options.output)} is finished: nothing to do")
        return
    by_the_first(lambda: check_output(options.output, options.overwrite, options.resumes))
    for line in untested_lines():
        console.print(f"warning   {line}")
    tokenizer = load_tokenizer(options.model, config.trust_remote_code)
    pairs = load_pairs(options, "data", tokenizer, config, console)
    held_out = None
    if options.eval_data:
        held_out = load_pairs(options, "eval_data", tokenizer, config, console)
        if shared := count_shared_prompts(pairs, held_out):
            console.print(f"          {shared} of their prompts occur in the training pairs too")
    if config.device.type == "cuda" and PartialState().num_processes == 1:  # sharded weights are not what is planned
        options = fitted_to_gpu(options, lambda: _plan_of(options, method, adapter, pairs, tokenizer, config), console)
        config = trainer_config(options, learning_rate, working_folder(options.output))
    with without_deepspeed(config):
        model, reference = _load_models(options, method, config)
    if adapter is not None:
        check_target_modules(model, adapter)
    base_size, fingerprint = model.num_parameters(), fingerprint_source(options.model)
    console.print(f"model     {options.model} ({base_size:,} parameters, {_dtype_of(model)}, {device_name()})")
    with (
        telling_of_full_disk(working_folder(options.output)),
        telling_of_lost_processes(working_folder(options.output)),
        _folder_of_all(options) as folder,
        Progress(console) as progress,
    ):
        checkpoint = by_the_first(lambda: _start_from(options, folder, progress.console))
        columns = None if held_out is None else held_out.pairs
        trainer = build_trainer(model, tokenizer, config, adapter, reference, pairs.pairs, columns)
        trainer.add_callback(progress)
        monitor = _build_monitor(options, trainer, progress.console)
        record = describe(options, method, trainer, pairs, held_out, fingerprint)
        if options.resume and checkpoint is not None:
            record = continued(folder, record, progress.console)
            if monitor is not None:
                monitor.measure_reference()
        if rank() == 0:
            record.write(folder)
        size = _trainable_size(trainer, base_size)
        console.print(
            f"method    {method}, {size['trainable_parameters']:,} trainable parameters "
            f"({size['trainable_share']:.4%} of the model's)"
        )
        metrics = {**size, **run_trainer(trainer, safekeeping(options, method, progress.console), checkpoint)}
        if monitor is not None:
            metrics["warnings"] = {
                name: {"step": step, "value": value} for name, (step, value) in monitor.warned.items()
            }
        trainer.card_facts = CardFacts(record.command, options.data, options.eval_data, metrics)
        save_trained(trainer, folder)
        if rank() == 0:
            record.finish(metrics).write(folder)
        if config.push_to_hub:
            push(trainer, console)
    if not options.keeps_checkpoints and rank() == 0:
        for each in checkpoints_of(options.output):
            shutil.rmtree(each)
    report(options, method, metrics, console)
    take_leave()


def print_plan(options: TrainOptions) -> None:
    """Say what would be trained and what memory it takes, and load no weight.

    Raises:
        UserError: If anything in the options, in the data or in the model's configuration is wrong.
    """
    console = Console(highlight=False, soft_wrap=True)
    method, adapter = choose_method(options)
    config = trainer_config(options, 0.0, options.output)
    tokenizer = load_tokenizer(options.model, config.trust_remote_code)
    pairs = load_pairs(options, "data", tokenizer, config, console)
    plan = _plan_of(options, method, adapter, pairs, tokenizer, config)
    for line in plan_lines(plan, method, free_memory(plan.device)):
        console.print(line)


def _plan_of(
    options: TrainOptions,
    method: str,
    adapter: PeftConfig | None,
    pairs: PreferenceData,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferenceConfig,
) -> Plan:
    """Return what estimates the run's memory."""
    device = "cuda" if config.device.type == "cuda" else "cpu"
    dtype = _weights_dtype(options.dtype, method, on_gpu=device == "cuda")
    if is_adapter(options.model):
        adapter = PeftConfig.from_pretrained(options.model)
        adapter.inference_mode = False
    return Plan(
        options.model, dtype, adapter, pair_lengths(pairs, tokenizer, config.max_length), config, options.bits, device
    )


def fitted_to_gpu(options: TrainOptions, make: Callable[[], Plan], console: Console) -> TrainOptions:
    """Choose gradient checkpointing and a budget of tokens for the GPU's memory, where neither was given.

    Args:
        options: The run's options.
        make: Makes the plan, which takes as long as tokenising the pairs.
        console: Where to say what was chosen.
    """
    if any(name in options.trainer for name in ("gradient_checkpointing", "tokens_per_step")):
        return options
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
    return dataclasses.replace(options, trainer={**options.trainer, **flags})


@contextmanager
def _folder_of_all(options: TrainOptions) -> Iterator[Path]:
    """Yield the working folder to every process; the first makes it and, when all are done, gives it its name."""
    if rank():
        PartialState().wait_for_everyone()
        yield working_folder(options.output)
        PartialState().wait_for_everyone()
    else:
        with finished_folder(options.output, options.overwrite, options.resumes) as folder:
            PartialState().wait_for_everyone()
            yield folder
            PartialState().wait_for_everyone()


def continued(folder: Path, record: RunRecord, console: Console) -> RunRecord:
    """Return the record of the run that goes on, by `continue_record`, in every process."""
    kept = by_the_first(lambda: continue_record(folder, record, console).model_dump_json())
    return RunRecord.model_validate_json(kept)


def _start_from(options: TrainOptions, folder: Path, console: Console) -> Path | None:
    """Return the checkpoint to go on from, or None."""
    if options.resume:
        return choose_checkpoint(folder, console)
    named = options.trainer.get("resume_from_checkpoint")
    return None if named is None else Path(named)


def safekeeping(options: TrainOptions, method: str, console: Console) -> Safekeeping:
    """Return what saves the run: an adapter every few minutes where nothing else was asked, anything on a signal."""
    cheap = method != "full" and not options.keeps_checkpoints
    return Safekeeping(CHECKPOINT_SECONDS if cheap else None, lambda line: console.print(f"stopping  {line}"))


def _build_monitor(options: TrainOptions, trainer: PreferenceTrainer, console: Console) -> HackingMonitor | None:
    """Let the monitor watch the trainer, where it is wanted and can."""
    if not options.monitor_steps:
        return None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        console.print("monitor   off: with weights sharded over processes no process has a whole layer to look at")
        return None
    text = None if options.monitor_text is None else read_text(options.monitor_text, "monitor_text")
    monitor = HackingMonitor(
        trainer,
        text,
        every=options.monitor_steps,
        stop=options.stop_on_warning,
        warn=lambda line: console.print(f"warning   {line}"),
    )
    trainer.add_callback(monitor)
    return monitor


def choose_method(options: TrainOptions) -> tuple[str, PeftConfig | None]:
    """Return the method's name and the new adapter: None for full fine-tuning, or to train an adapter further."""
    if not is_adapter(options.model):
        method = options.method or "ropo"
        return method, adapter_config(method, options.adapter)
    given = ["method"] * (options.method is not None) + list(options.adapter)
    if given:
        raise UserError(f"--{given[0]}: {options.model} is an adapter, which brings its own; leave the option out")
    kind: Any = adapter_config_of(options.model).peft_type
    return str(kind.value).lower(), None


def load_pairs(
    options: TrainOptions,
    which: str,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferenceConfig,
    console: Console,
) -> PreferenceData:
    """Load the pairs of `--data` or `--eval_data`, and say what was made of them."""
    source, split = (options.data, options.split) if which == "data" else (str(options.eval_data), options.eval_split)
    data = load_preferences(source, split, wraps_prompts(tokenizer, options.plain_prompts))
    if tokenizer.chat_template is None and not isinstance(data.pairs[0]["prompt"], str):
        raise UserError(
            f"data {source}: holds conversations, but the tokenizer of {options.model} has no chat template"
        )
    check_templates(data, tokenizer)
    data, long = leave_out_long_prompts(data, tokenizer, config.limits, options.skip_long_prompts)
    dropped = [
        f"{count} {what} left out"
        for count, what in ((data.duplicates, "duplicates"), (data.ties, "with equal answers"))
        if count
    ]
    notes = [f"{len(data)} pairs from {source}", data.reading, *dropped, *([long] if long else [])]
    notes += unread_lines(tokenizer, data.pairs)
    if templated := sum(holds_templated_prompt(tokenizer, pair) for pair in data.pairs):
        notes.append(f"{templated} prompts went through the chat template already and are used as they are")
    elif data.wrapped:
        notes.append("text prompts go through the chat template (--plain_prompts keeps them)")
    console.print(f"{'data' if which == 'data' else 'held out':<10}" + "; ".join(notes))
    return data


def _load_models(options: TrainOptions, method: str, config: PreferenceConfig) -> tuple[Model, PreTrainedModel | None]:
    """Load the model to train, and the frozen reference that full fine-tuning needs beside it."""
    dtype = _weights_dtype(options.dtype, method, on_gpu=config.device.type == "cuda")
    remote = config.trust_remote_code
    if is_adapter(options.model):
        base = load_model(adapter_base(options.model), dtype, remote, options.bits)
        return load_adapter(base, options.model, trainable=True), None
    needs_reference = method == "full" and not config.precompute_ref_log_probs
    model = load_model(options.model, dtype, remote, options.bits)
    return model, load_model(options.model, dtype, remote) if needs_reference else None


def _weights_dtype(name: str, method: str, on_gpu: bool) -> torch.dtype | None:
    """Return the dtype of the weights; None for the checkpoint's own.

    On a GPU frozen weights stay as they are stored, and trained ones are float32: bf16 would swallow small updates.
    """
    if name == "auto":
        return None if on_gpu and method != "full" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def describe(
    options: TrainOptions,
    method: str,
    trainer: PreferenceTrainer,
    pairs: PreferenceData,
    held_out: PreferenceData | None,
    fingerprint: str,
) -> RunRecord:
    """Make the record of the run that is about to start."""
    model: Any = trainer.model
    own = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("trainer", "adapter")}
    adapter = model.peft_config["default"].to_dict() if isinstance(model, PeftModel) else None
    data = {"train": pairs} | ({"held_out": held_out} if held_out else {})
    return RunRecord(
        command=sys.argv[1:],
        seed=trainer.args.seed,
        config={**own, "method": method, "adapter": adapter, "trainer": trainer.args.to_dict()},
        model=Source(name=options.model, sha256=fingerprint),
        data={use: _as_source(each) for use, each in data.items()},
        device=device_name(),
    )


def _trainable_size(trainer: PreferenceTrainer, base_size: int) -> dict[str, float]:
    """Return how many parameters are trained, and their share of the base model's `base_size`."""
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {"trainable_parameters": trained, "trainable_share": trained / base_size}


def _dtype_of(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")


def _as_source(data: PreferenceData) -> Source:
    counts = {"pairs": len(data), "duplicates": data.duplicates, "ties": data.ties, "wrapped": data.wrapped}
    return Source(name=data.source, sha256=data.sha256, counts=counts)
