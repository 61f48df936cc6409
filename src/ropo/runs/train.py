"""One training run, in its order: check, load, train, measure, save, record."""

from __future__ import annotations

__all__ = ["train"]

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from ropo.core.cache import size_of
from ropo.core.errors import RunStoppedError, UserError
from ropo.core.files import is_full_disk, read_text
from ropo.core.output import check_output, display, finished_folder, working_folder
from ropo.core.record import RunRecord, device_name
from ropo.environment import untested_lines
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.methods import METHODS, check_target_modules
from ropo.preferences.data import count_shared_prompts
from ropo.runs.inputs import choose_method, load_models, load_pairs
from ropo.runs.options import TrainOptions, trainer_config
from ropo.runs.plan import fits_itself, fitted_to_gpu, plan_of
from ropo.runs.record import choose_checkpoint, continued, describe, is_finished
from ropo.training.callbacks.progress import Progress
from ropo.training.callbacks.safekeeping import Safekeeping
from ropo.training.callbacks.trial import GpuMemory, TrialStep
from ropo.training.card import CardFacts
from ropo.training.checkpoints.folder import checkpoints_of, newest_whole
from ropo.training.distributed.processes import by_the_first, meet, rank, take_leave, telling_of_lost_processes
from ropo.training.distributed.sharding import without_deepspeed
from ropo.training.monitor import HackingMonitor, trained_layers
from ropo.training.run import build_trainer, pairs_of_steps, push, run_trainer, save_trained
from ropo.training.trainer import PreferenceTrainer

CHECKPOINT_SECONDS = 300.0


def train(options: TrainOptions, console: Console) -> RunRecord | None:
    """Train as the options say, and leave a finished output folder or none.

    Args:
        options: What to train, on what, to which folder.
        console: Where progress is told.

    Returns:
        The finished run's record, or None where `resume` found it finished already.

    Raises:
        UserError: If anything in the options, in the data or in the model is wrong; nothing is left behind then.
        RunStoppedError: If a signal or a full disk ended it.
    """
    method, adapter = choose_method(options)
    learning_rate = METHODS.get(method, METHODS["lora"]).learning_rate  # an adapter may be of any PEFT method
    config = trainer_config(options, learning_rate, working_folder(options.output))
    if by_the_first(lambda: options.resume and is_finished(options.output)):
        console.print(f"resume    the run in {display(options.output)} is finished: nothing to do")
        return None
    by_the_first(lambda: check_output(options.output, options.overwrite, options.resumes))
    for line in untested_lines():
        console.print(f"warning   {line}")
    tokenizer = load_tokenizer(options.model, config.trust_remote_code)
    pairs = load_pairs(options, "data", tokenizer, config, console)
    if config.max_steps > 0 and (taken := pairs_of_steps(config, config.max_steps)) < len(pairs):
        console.print(f"          {taken} of them are trained on: --max_steps {config.max_steps} takes no more")
    held_out = None
    if options.eval_data:
        held_out = load_pairs(options, "eval_data", tokenizer, config, console)
        if shared := count_shared_prompts(pairs, held_out):
            console.print(f"          {shared} of their prompts occur in the training pairs too")
    fits = fits_itself(options, config)
    if fits:
        options = fitted_to_gpu(options, lambda: plan_of(options, method, adapter, pairs, tokenizer, config), console)
        config = trainer_config(options, learning_rate, working_folder(options.output))
    with without_deepspeed(config):
        model, reference = load_models(options, method, config)
    if adapter is not None:
        check_target_modules(model, adapter)
    base_size, fingerprint = model.num_parameters(), by_the_first(lambda: fingerprint_source(options.model))
    dtype = str(model.dtype).removeprefix("torch.")
    console.print(f"model     {options.model} ({base_size:,} parameters, {dtype}, {device_name()})")
    with (
        telling_of_full_disk(working_folder(options.output)),
        telling_of_lost_processes(working_folder(options.output)),
        _folder_of_all(options) as folder,
        Progress(console) as progress,
    ):
        meet()
        checkpoint = by_the_first(lambda: _start_from(options, folder, progress.console))
        columns = None if held_out is None else held_out.pairs
        trainer = build_trainer(model, tokenizer, config, adapter, reference, pairs.pairs, columns)
        trainer.add_callback(progress)
        trial = TrialStep(trainer, GpuMemory(), lambda line: progress.console.print(f"memory    {line}"))
        if fits and trainer.packs:
            trainer.add_callback(trial)
        monitor = _build_monitor(options, trainer, progress.console)
        record = describe(options, method, trainer, pairs, held_out, fingerprint)
        if options.resume and checkpoint is not None:
            record = continued(folder, record, progress.console)
            if monitor is not None and not trainer.holders.are_sharded:  # which measures when training begins
                monitor.measure_reference()
        if rank() == 0:
            record.write(folder)
        size = _trainable_size(trainer, base_size)
        console.print(
            f"method    {method}, {size['trainable_parameters']:,} trainable parameters "
            f"({size['trainable_share']:.4%} of the model's)"
        )
        metrics = {**size, **run_trainer(trainer, _safekeeping(options, method, progress.console), checkpoint)}
        if monitor is not None:
            metrics["warnings"] = {
                name: {"step": step, "value": value} for name, (step, value) in monitor.warned.items()
            }
            metrics["monitor"] = monitor.last
            if monitor.budget is not None:
                metrics["kl_budget"] = monitor.budget.summary()
        if trial.found:
            metrics["trial_step"] = trial.found
        trainer.card_facts = CardFacts(record.command, options.data, options.eval_data, metrics)
        record = record.finish(metrics)
        with _refuge_on_a_full_disk(trainer, options.output):
            save_trained(trainer, folder)
            if rank() == 0:
                record.write(folder)
        if config.push_to_hub:
            push(trainer, console)
    if not options.keeps_checkpoints and rank() == 0:
        for each in checkpoints_of(options.output):
            shutil.rmtree(each)
    take_leave()
    return record


@contextmanager
def telling_of_full_disk(folder: Path) -> Iterator[None]:
    """Turn "no space left" into a line that says how much to free, and where."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise RunStoppedError(_what_to_free(folder)) from error


def _what_to_free(folder: Path) -> str:
    checkpoint, _ = newest_whole(folder)
    where = folder if folder.exists() else folder.parent
    free = shutil.disk_usage(where).free / 2**20
    if checkpoint is None:
        kept = "no checkpoint was complete"
        size = size_of(where)
    else:
        kept = f"{display(checkpoint)} is complete: give the same command with --resume then"
        size = size_of(checkpoint)
    older = [display(path) for path in checkpoints_of(folder) if path != checkpoint]
    hint = f", for example {', '.join(older)}" if older else ""
    return (
        f"the disk of {display(where)} is full ({free:.1f} MiB left); free at least {2 * size / 2**20 + 1:.0f} MiB "
        f"there{hint}; {kept}"
    )


@contextmanager
def _refuge_on_a_full_disk(trainer: PreferenceTrainer, output: Path) -> Iterator[None]:
    """Save what was trained among temporary files where its own disk is full, rather than lose it."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error) or PartialState().num_processes > 1:
            raise
        refuge = Path(tempfile.mkdtemp(prefix="ropo-trained-"))
        try:
            save_trained(trainer, refuge)
        except Exception:  # that disk is full too: then the first error counts
            shutil.rmtree(refuge, ignore_errors=True)
            raise error from None
        raise RunStoppedError(
            f"the disk of {display(output)} is full, so what was trained was saved in {refuge}; move it where there is "
            "room"
        ) from error


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


def _start_from(options: TrainOptions, folder: Path, console: Console) -> Path | None:
    """Return the checkpoint to go on from, or None."""
    if options.resume:
        return choose_checkpoint(folder, console)
    named = options.trainer.get("resume_from_checkpoint")
    return None if named is None else Path(named)


def _safekeeping(options: TrainOptions, method: str, console: Console) -> Safekeeping:
    """Return what saves the run: an adapter every few minutes where nothing else was asked, anything on a signal."""
    cheap = method != "full" and not options.keeps_checkpoints
    return Safekeeping(CHECKPOINT_SECONDS if cheap else None, lambda line: console.print(f"stopping  {line}"))


def _build_monitor(options: TrainOptions, trainer: PreferenceTrainer, console: Console) -> HackingMonitor | None:
    """Let the monitor watch the trainer, where it is wanted and can."""
    if not options.monitors:
        why = "there are no held-out pairs (--eval_data)" if options.eval_data is None else "--monitor_steps is 0"
        console.print(f"monitor   off: {why}, so nothing warns of reward hacking or forgetting")
        return None
    if options.stop_at_kl is not None and trainer.holders.cut_trained:
        raise UserError(
            "stop_at_kl: keeps a copy of what is trained, and under ZeRO-3, and without an adapter under FSDP2, no "
            "process has it whole; leave it out"
        )
    if trainer.holders.are_sharded and options.method == "full" and trainer.args.precompute_ref_log_probs:
        console.print("monitor   off: with log-probs that come in advance no reference is kept to go on with")
        return None
    if not trained_layers(trainer.model):
        if options.stop_at_kl is not None:
            raise UserError("stop_at_kl: the monitor is off, since this adapter trains no linear layer; leave it out")
        console.print("monitor   off: it watches linear layers, and this adapter trains none")
        return None
    text = None if options.monitor_text is None else read_text(options.monitor_text, "monitor_text")
    monitor = HackingMonitor(
        trainer,
        text,
        every=options.monitor_steps,
        stop=options.stop_on_warning,
        kl_budget=options.stop_at_kl,
        warn=lambda line: console.print(f"warning   {line}"),
    )
    trainer.add_callback(monitor)
    return monitor


def _trainable_size(trainer: PreferenceTrainer, base_size: int) -> dict[str, float]:
    """Return how many parameters are trained, and their share of the base model's `base_size`."""
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {"trainable_parameters": trained, "trainable_share": trained / base_size}
