"""TRL's flags parse as TRL's, under TRL's names."""

from __future__ import annotations

import dataclasses

import pytest
from trl import DPOConfig, ModelConfig, ScriptArguments, TrlParser

from ropo.cli.train_options import FOREIGN, read_train_options
from ropo.core.errors import UserError
from ropo.methods import adapter_config
from ropo.training.config import check_names
from tests.cli.conftest import parser

NEEDED = ["--model", "m", "--data", "d", "--output", "o"]


def test_every_flag_of_the_trainer_parses_as_trl_s():
    ours = {flag: action for action in parser()._actions for flag in action.option_strings}
    seen = 0
    for action in TrlParser((DPOConfig,))._actions:
        for flag in action.option_strings:
            if action.dest in ("help", "config", "output_dir"):
                continue
            seen += 1
            assert ours[flag].dest == action.dest
            assert _name(ours[flag].type) == _name(action.type)
            assert ours[flag].choices == action.choices
            assert ours[flag].nargs == action.nargs or (action.nargs, ours[flag].nargs) == (None, "?"), flag
    assert seen > 200


def _name(kind) -> str:
    return getattr(kind, "__name__", repr(kind))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--bf16"], {"bf16": True}),
        (["--bf16", "false"], {"bf16": False}),
        (["--tf32"], {"tf32": True}),
        (["--no_disable_dropout"], {"disable_dropout": False}),
        (["--no-disable-dropout"], {"disable_dropout": False}),
        (["--gradient-checkpointing"], {"gradient_checkpointing": True}),
        (["--loss_type", "sigmoid", "sft", "--loss_weights", "1", "0.5"], {"loss_type": ["sigmoid", "sft"]}),
        (["--per-device-train-batch-size", "3"], {"per_device_train_batch_size": 3}),
    ],
)
def test_switches_and_lists(flags, expected):
    options = read_train_options(parser().parse_args([*NEEDED, *flags]))
    assert expected.items() <= options.trainer.items()


ALIASED = {
    "model_name_or_path": ("model", "m2"),
    "dataset_name": ("data", "d2"),
    "dataset_train_split": ("split", "s2"),
    "dataset_test_split": ("eval_split", "s3"),
    "torch_dtype": ("dtype", "bfloat16"),
}


@pytest.mark.parametrize("alias", ALIASED)
@pytest.mark.parametrize("way", ["flag", "dashes", "file"])
def test_aliases_are_taken(tmp_path, alias, way):
    name, value = ALIASED[alias]
    given = ["--model", "m", "--data", "d", "--output", "o"]
    given = [each for pair in zip(given[::2], given[1::2], strict=True) if pair[0] != f"--{name}" for each in pair]
    if way == "file":
        (tmp_path / "c.yaml").write_text(f"{alias}: {value}\n")
        given += ["--config", str(tmp_path / "c.yaml")]
    else:
        given += [f"--{alias.replace('_', '-') if way == 'dashes' else alias}", value]
    assert getattr(read_train_options(parser().parse_args(given)), name) == value


def test_a_name_and_its_alias_are_one(tmp_path):
    (tmp_path / "c.yaml").write_text("model: a\nmodel_name_or_path: b\n")
    with pytest.raises(UserError, match=r"c.yaml:2: model is given twice"):
        read_train_options(parser().parse_args(["--config", str(tmp_path / "c.yaml")]))


def test_every_argument_of_trl_dpo_is_taken_or_told():
    """The trainer's are in the test above; these are the model's and the script's."""
    fields = [field.name for each in (ModelConfig, ScriptArguments) for field in dataclasses.fields(each)]
    assert len(fields) > 20
    taken = {flag.lstrip("-") for action in parser()._actions for flag in action.option_strings}
    assert taken >= {"model_name_or_path", "dataset_name", "lora_r", "lora_alpha", "lora_target_modules", "dtype"}
    for name in fields:
        if name in taken:
            continue
        with pytest.raises(UserError, match=rf"--{name}: is not an option of ropo train; ."):
            parser().parse_args([*NEEDED, f"--{name}", "x"])
    for name in FOREIGN:  # earlier TRL's too
        with pytest.raises(UserError, match=rf"--{name}: is not an option of ropo train; ."):
            parser().parse_args([*NEEDED, f"--{name}", "x"])


def test_a_file_is_told_too(tmp_path):
    (tmp_path / "c.yaml").write_text("model: m\nuse_peft: true\n")
    with pytest.raises(UserError, match=r"c.yaml:2: use_peft is not an option of ropo train; .*--method"):
        read_train_options(parser().parse_args(["--config", str(tmp_path / "c.yaml")]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("datasets: [{path: a}]", "datasets is not an option of ropo train; put the files"),
        ("env: {OMP_NUM_THREADS: 1}", "env is not an option of ropo train; set environment"),
    ],
)
def test_what_a_file_for_trl_holds_beside_its_options(tmp_path, line, message):
    (tmp_path / "c.yaml").write_text(f"model: m\n{line}\n")
    with pytest.raises(UserError, match=rf"c.yaml:2: {message}"):
        read_train_options(parser().parse_args(["--config", str(tmp_path / "c.yaml")]))


def test_trackers_are_names():
    with pytest.raises(UserError, match="report_to: takes names, not 1; choose from"):
        check_names("report_to", [1], ["wandb"])


@pytest.mark.parametrize("flag", ["--load-in-4bit", "--load_in_4bit"])
def test_our_own_flags_may_be_written_with_dashes(flag):
    assert read_train_options(parser().parse_args([*NEEDED, flag, "--monitor-steps=3"])).bits == 4


@pytest.mark.parametrize("way", ["flag", "file", "list"])
def test_all_linear_is_pefts_word(tmp_path, way):
    text = {"file": "target_modules: all-linear\n", "list": "target_modules: [all-linear]\n", "flag": ""}[way]
    (tmp_path / "c.yaml").write_text(text)
    flags = ["--target_modules", "all-linear"] if way == "flag" else ["--config", str(tmp_path / "c.yaml")]
    options = read_train_options(parser().parse_args([*NEEDED, *flags]))
    for method in ("ropo", "lora", "hra", "oft"):
        assert adapter_config(method, options.adapter).target_modules == "all-linear"


@pytest.mark.parametrize("flags", [["--lora_r", "4"], ["--lora-r", "4"], ["--r", "4"]])
def test_lora_s_rank_has_two_names(flags):
    assert read_train_options(parser().parse_args([*NEEDED, *flags])).adapter == {"r": 4}
