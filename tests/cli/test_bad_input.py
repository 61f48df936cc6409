"""Every mistake of the user: status 2, one line with what, where and the mend, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropo.cli.main import main
from tests.cli.conftest import PAIRS, train, write_pairs

LONG = {"prompt": "the cat sat on the mat . " * 5, "chosen": "yes", "rejected": "no"}


def refused(capsys, status: int, folder: Path, before: set[str]) -> str:
    """Check what every refusal has in common, and return its line."""
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert {path.name for path in folder.iterdir()} == before
    return error


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--reflections", "3"], ["reflections", "even", "3"]),
        (["--reflections", "-2"], ["reflections", "-2"]),
        (["--givens", "sideways"], ["givens", "bidirectional, forward, none", "'sideways'"]),
        (["--target_modules", "q_prj"], ["target_modules", "q_prj", "q_proj"]),
        (["--target_modules", "q_proj", "lm_head"], ["target_modules", "lm_head", "output head"]),
        (["--layers_to_transform", "9"], ["layers_to_transform", "9"]),
        (["--exclude_modules", "q_proj", "v_proj"], ["No modules were targeted", "exclude"]),
        (["--method", "lora", "--target_modules", "q_prj"], ["target_modules", "q_prj", "q_proj"]),
        (["--method", "lora", "--target_modules", "lm_head"], ["target_modules", "output head"]),
        (["--method", "lora", "--r", "0"], ["r", "0"]),
        (["--method", "lora", "--reflections", "2"], ["reflections", "not an option of method 'lora'"]),
        (["--method", "full", "--target_modules", "q_proj"], ["target_modules", "method 'full'"]),
        (
            ["--max_length", "4"],
            ["max_length: 4 tokens", "4 of 4 pairs", "pairs.jsonl:1", "raise --max_length above 6"],
        ),
        (["--resume_from_checkpoint", "nowhere"], ["resume_from_checkpoint", "nowhere"]),
        (["--model_init_kwargs", "{}"], ["model_init_kwargs", "--dtype"]),
        (["--monitor_steps", "-1"], ["monitor_steps", "-1", "0 for no monitor"]),
        (["--monitor_text", "plain.txt"], ["monitor_text", "--eval_data"]),
        (["--stop_on_warning"], ["stop_on_warning", "--eval_data"]),
        (["--stop_at_kl", "0.1"], ["stop_at_kl: the monitor is off", "--eval_data"]),
        (["--stop_at_kl", "0"], ["stop_at_kl: must be above 0", "got 0"]),
        (["--stop_at_kl", "-1"], ["stop_at_kl: must be above 0", "got -1"]),
        (["--dpop_lambda", "0"], ["dpop_lambda: must be above 0", "got 0"]),
        (["--rpo_alpha", "1", "--loss_type", "sft"], ["rpo_alpha: is the loss sft"]),
        (["--rdpo_alpha", "0.1", "--loss_type", "simpo"], ["rdpo_alpha: changes the losses sigmoid and cdpo only"]),
        (["--stop_at_kl", "nan"], ["stop_at_kl: must be above 0 and finite", "got nan"]),
    ],
)
def test_options(model, pairs, tmp_path, capsys, flags, parts):
    status = train(model, pairs, tmp_path / "out", *flags)
    error = refused(capsys, status, tmp_path, {"pairs.jsonl"})
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["pairs.jsonl: no such file", "check the path"]),
        ("", ["pairs.jsonl: holds no record"]),
        ("\n\n", ["pairs.jsonl: holds no record"]),
        ([PAIRS[0], {"prompt": "x", "chosen": "y"}], ["pairs.jsonl:2: has no field 'rejected'"]),
        (
            [{"prompt": "x", "choosen": "y", "rejected": "z"}],
            ["pairs.jsonl:1: has no field 'chosen'; rename 'choosen'"],
        ),
        ([PAIRS[0], {**PAIRS[1], "chosen": " "}], ["pairs.jsonl:2: chosen is empty"]),
        ([{**PAIRS[1], "prompt": ""}], ["pairs.jsonl:1: prompt is empty"]),
        ([{**PAIRS[1], "rejected": 7}], ["pairs.jsonl:1: rejected must be text or a list of messages, not 7 (int)"]),
        ([{**PAIRS[1], "rejected": None}], ["pairs.jsonl:1: rejected must be text", "not nothing"]),
        ("{not json}\n", ["pairs.jsonl:1: is not valid JSON"]),
        ('["a"]\n', ["pairs.jsonl:1: is a list, not an object"]),
        ([{**pair, "rejected": pair["chosen"]} for pair in PAIRS], ["chosen equals rejected in all 4 records"]),
        (
            [*PAIRS, LONG, {**LONG, "chosen": "one"}],
            ["in 2 of 6 pairs", "pairs.jsonl:5", "raise --max_length above 38", "--skip_long_prompts"],
        ),
    ],
)
def test_data(model, tmp_path, capsys, content, parts):
    file = tmp_path / "pairs.jsonl"
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        write_pairs(file, content)
    before = {path.name for path in tmp_path.iterdir()}
    error = refused(capsys, train(model, file, tmp_path / "out", "--max_length", "24"), tmp_path, before)
    for part in parts:
        assert part in error


@pytest.mark.parametrize(("count", "flags"), [(1, []), (2, ["--skip_long_prompts"])])
def test_one_pair_with_a_long_prompt_is_left_out_and_more_when_told(model, tmp_path, capsys, count, flags):
    file = write_pairs(
        tmp_path / "pairs.jsonl", [*PAIRS, *({**LONG, "chosen": word} for word in ("one", "two")[:count])]
    )
    assert train(model, file, tmp_path / "out", "--max_length", "24", *flags) == 0
    assert "4 pairs from" in (printed := capsys.readouterr()).out
    said = f"{count} left out, whose prompt alone fills max_length 24 (first in {file}:5, whose prompt has 38 tokens)"
    assert said in printed.out
    assert printed.err == ""


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")  # TRL's
def test_sequences_may_keep_their_end_instead(model, tmp_path, capsys):
    file = write_pairs(tmp_path / "pairs.jsonl", [*PAIRS, LONG])
    flags = ("--max_length", "24", "--truncation_mode", "keep_end")
    assert train(model, file, tmp_path / "out", *flags) == 0
    assert "5 pairs from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--use_peft"], ["--use_peft: is not an option of ropo train", "--method"]),
        (["--max_prompt_length", "9"], ["--max_prompt_length: is not an option", "--max_length"]),
        (["--weight_decay", "-1"], ["weight_decay: must not be negative, got -1.0"]),
        (["--warmup_steps", "-3"], ["warmup_steps: must not be negative, got -3"]),
        (["--learning_rate", "nan"], ["learning_rate: must be a finite number, got nan"]),
        (["--beta", "inf"], ["beta: must be a finite number, got inf"]),
        (["--num_train_epochs", "nan"], ["num_train_epochs: must be a finite number, got nan"]),
        (["--max_steps", "-5"], ["max_steps: must not be negative, got -5"]),
        (["--max_grad_norm", "-1"], ["max_grad_norm: must not be negative"]),
        (["--adam_beta1", "1.5"], ["adam_beta1: must be in [0, 1), got 1.5"]),
        (["--save_total_limit", "0"], ["save_total_limit: must be above 0, got 0"]),
        (["--seed", "-1"], ["seed: must not be negative, got -1"]),
        (["--attn_implementation", "sdpa"], ["--attn_implementation: is not an option", "--packing false"]),
        (["--method", "hra", "--r", "3"], ["r: must be even for method 'hra', got 3", "give 4"]),
        (["--target_modules", "all-linear", "q_proj"], ["'all-linear' stands for all layers"]),
        (["--torch_compile"], ["torch_compile: cannot be combined with packing", "--packing false"]),
        (["--torch_compile_mode", "default"], ["torch_compile: cannot be combined with packing"]),
        (["--sync_ref_model", "--precompute_ref_log_probs"], ["sync_ref_model: cannot be combined"]),
        (["--loss_type", "aot", "--use_weighting"], ["use_weighting: cannot be combined with the loss aot"]),
        (["--f_divergence_type", "kl"], ["f_divergence_type: there is no 'kl'"]),
        (["--optim", "lomo"], ["optim lomo: cannot be made", "lomo"]),
        (["--train_sampling_strategy", "group_by_length"], ["train_sampling_strategy: group_by_length needs"]),
        (["--dataloader_drop_last", "--per_device_train_batch_size", "64"], ["4 pairs do not fill one batch of 64"]),
        (["--max_steps", "0"], ["max_steps: 0 trains nothing"]),
        (["--lr_scheduler_kwargs", '{"x": 1}'], ["lr_scheduler_type linear: cannot be made"]),
        (["--accelerator_config", '{"x": 1}'], ["options: ", "'x'"]),
        (["--deepspeed", "nowhere.json"], ["options: "]),
        (["--eval_data", "PAIRS", "--bf16_full_eval"], ["bf16_full_eval: would narrow the weights", "--dtype"]),
        (["--eval_data", "PAIRS", "--eval_do_concat_batches", "false"], ["eval_do_concat_batches: ", "leave it out"]),
        (["--eval_data", "PAIRS", "--prediction_loss_only", "true"], ["prediction_loss_only: ", "leave it out"]),
        (["--batch_eval_metrics", "true"], ["batch_eval_metrics: ", "compute_metrics"]),
        (["--include_for_metrics", "loss"], ["include_for_metrics: ", "compute_metrics"]),
        (["--loss_type", "sigmoid", "sft", "--loss_weights", "1", "-1"], ["loss_weights: must each be above 0", "-1"]),
        (["--load_best_model_at_end"], ["load_best_model_at_end: needs evaluation during training"]),
        (["--save_steps", "2"], ["save_steps: needs checkpoints", "got 2", "--save_strategy steps"]),
        (["--dataloader_persistent_workers", "true"], ["dataloader_persistent_workers: is of processes that load"]),
        (["--optim_args", "momentum=0.9"], ["optim_args: is not read by adamw_torch", "got momentum=0.9"]),
        (["--optim", "sgd", "--adam_beta1", "0.5"], ["adam_beta1: is not read by sgd", "got 0.5"]),
        (["--optim_target_modules", "q_proj"], ["optim_target_modules: is not read by adamw_torch"]),
        (
            ["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"lr_end": -1.0}'],
            ["lr_scheduler_type polynomial: ", "negative", "lr_end"],
        ),
    ],
)
def test_what_trl_and_the_libraries_would_refuse_later(model, pairs, tmp_path, capsys, flags, parts):
    """Their own words or ours, in one line, before anything is written."""
    flags = [str(pairs) if flag == "PAIRS" else flag for flag in flags]
    error = refused(capsys, train(model, pairs, tmp_path / "out", *flags), tmp_path, {"pairs.jsonl"})
    for part in parts:
        assert part in error


def test_the_hub_is_needed_to_push_to_it(model, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refused(capsys, train(model, pairs, tmp_path / "out", "--push_to_hub"), tmp_path, {"pairs.jsonl"})
    assert "push_to_hub: cannot be done without the hub, and HF_HUB_OFFLINE is set" in error


def test_a_model_folder_without_weights(model, pairs, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    for file in Path(model).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    status = train(tmp_path / "model", pairs, tmp_path / "out")
    assert "the folder has no weights" in refused(capsys, status, tmp_path, {"model", "pairs.jsonl"})


def test_an_output_folder_that_is_not_empty(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "out") == 0
    capsys.readouterr()
    first = (tmp_path / "out" / "run.json").read_text()
    error = refused(capsys, train(model, pairs, tmp_path / "out"), tmp_path, {"out", "pairs.jsonl"})
    assert "the folder is not empty; choose another one or add --overwrite" in error
    assert (tmp_path / "out" / "run.json").read_text() == first
    assert train(model, pairs, tmp_path / "out", "--overwrite") == 0
    assert (tmp_path / "out" / "run.json").read_text() != first


def test_a_mistake_spares_what_overwrite_would_replace(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "out") == 0
    capsys.readouterr()
    status = train(model, pairs, tmp_path / "out", "--overwrite", "--layers_to_transform", "9")
    refused(capsys, status, tmp_path, {"out", "pairs.jsonl"})
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_an_adapter_brings_its_own_options(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "first") == 0
    capsys.readouterr()
    for flags in (("--method", "lora"), ("--reflections", "4")):
        status = train(tmp_path / "first", pairs, tmp_path / "out", *flags)
        error = refused(capsys, status, tmp_path, {"first", "pairs.jsonl"})
        assert f"{flags[0]}: " in error
        assert "is an adapter, which brings its own" in error


def test_an_adapter_whose_base_model_is_gone(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "first") == 0
    config = tmp_path / "first" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    capsys.readouterr()
    for status in (
        train(tmp_path / "first", pairs, tmp_path / "out"),
        main(["merge", str(tmp_path / "first"), "--output", str(tmp_path / "out")]),
    ):
        assert status == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("names no base model" in error for error in errors)
    assert not (tmp_path / "out").exists()


def test_conversations_need_a_chat_template(model, tmp_path, capsys):
    from tests.tiny.tokenizer import tiny_tokenizer

    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((Path(model) / name).read_bytes())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    turns = {name: [{"role": "assistant", "content": PAIRS[0][name]}] for name in ("chosen", "rejected")}
    file = write_pairs(tmp_path / "pairs.jsonl", [{"prompt": [{"role": "user", "content": "the cat"}], **turns}])
    status = train(folder, file, tmp_path / "out")
    assert "has no chat template" in refused(capsys, status, tmp_path, {"model", "pairs.jsonl"})
