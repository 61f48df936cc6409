"""Options from YAML."""

from __future__ import annotations

import pytest

from ropo.cli.config_file import read_config
from ropo.cli.train_options import read_train_options
from ropo.core.errors import UserError
from ropo.runs.options import trainer_config
from tests.cli.conftest import parser


def read(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return read_config(file, parser())


def test_values_get_the_types_of_the_flags(tmp_path):
    text = """
    model: some/model
    learning_rate: 5e-4          # text, to YAML 1.1
    max_steps: -1
    packing: false
    overwrite: yes
    target_modules: [q_proj, o_proj]
    layers_to_transform: [0, 1]
    loss_type: [sigmoid, sft]
    loss-weights: [1, 0.5]
    lr_scheduler_kwargs: {num_cycles: 2}
    max_length: null
    """
    assert read(tmp_path, text) == {
        "model": "some/model",
        "learning_rate": 5e-4,
        "max_steps": -1,
        "packing": False,
        "overwrite": True,
        "target_modules": ["q_proj", "o_proj"],
        "layers_to_transform": [0, 1],
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 0.5],
        "lr_scheduler_kwargs": '{"num_cycles": 2}',
        "max_length": None,
    }


def test_lists_and_mappings_are_taken_where_trl_takes_them(tmp_path):
    text = "report_to: [none, tensorboard]\nliger_kernel_config: {rope: true}\noptim_target_modules: [q_proj, v_proj]\n"
    assert read(tmp_path, text) == {
        "report_to": ["none", "tensorboard"],
        "liger_kernel_config": {"rope": True},
        "optim_target_modules": ["q_proj", "v_proj"],
    }
    with pytest.raises(UserError, match=r"recipe.yaml:1: "):
        read(tmp_path, "run_name: [a, b]")


@pytest.mark.parametrize("name", ["save_strategy", "eval_strategy", "logging_strategy"])
def test_no_without_quotes_is_no(tmp_path, name):
    assert read(tmp_path, f"{name}: no") == {name: "no"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: 0.1\nlerning_rate: 1", r"recipe.yaml:2: unknown option 'lerning_rate'; did you mean 'learning_rate'\?"),
        ("beta: 0.1\n\nbeta: 0.2", "recipe.yaml:3: beta is given twice"),
        ("beta: high", "recipe.yaml:1: argument --beta: invalid float value: 'high'"),
        ("method: dora", "recipe.yaml:1: argument --method: invalid choice: 'dora'"),
        ("config: other.yaml", "recipe.yaml:1: unknown option 'config'"),
        ("- beta", "must be a mapping"),
        ("beta: [", "is not valid YAML"),
    ],
)
def test_a_mistake_names_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_an_empty_file_gives_nothing_and_a_missing_one_is_told(tmp_path):
    assert read(tmp_path, "# only a comment\n") == {}
    with pytest.raises(UserError, match=r"none.yaml: cannot be read \(No such file"):
        read_config(tmp_path / "none.yaml", parser())


def options(tmp_path, text, *flags):
    (tmp_path / "recipe.yaml").write_text(text)
    return read_train_options(parser().parse_args(["--config", str(tmp_path / "recipe.yaml"), *flags]))


BASE = "model: m\ndata: d.jsonl\noutput: out\n"


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    found = options(tmp_path, BASE + "beta: 0.3\nseed: 7\n", "--beta", "0.5")
    config = trainer_config(found, learning_rate=1e-4, output=tmp_path / "work")
    assert (config.beta, config.seed, config.learning_rate, config.save_strategy) == (0.5, 7, 1e-4, "no")
    assert config.output_dir == str(tmp_path / "work")
    given = options(tmp_path, BASE, "--learning_rate", "0.02")
    assert trainer_config(given, learning_rate=1e-4, output=tmp_path / "work").learning_rate == 0.02


def test_null_is_none_only_where_the_trainer_takes_it(tmp_path):
    config = trainer_config(options(tmp_path, BASE + "max_length: null\n"), 1e-4, tmp_path)
    assert config.max_length is None
    with pytest.raises(UserError, match="beta: must not be null"):
        options(tmp_path, BASE + "beta: null\n")


@pytest.mark.parametrize("missing", ["model", "data", "output"])
def test_what_cannot_be_left_out(tmp_path, missing):
    text = "".join(line + "\n" for line in BASE.splitlines() if not line.startswith(missing))
    with pytest.raises(UserError, match=f"--{missing} is missing"):
        options(tmp_path, text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss_type", "sigmod"], r"loss_type: there is no 'sigmod'; did you mean 'sigmoid'\?"),
        (["--num_train_epochs", "0"], "num_train_epochs: must be above 0, got 0"),
        (["--per_device_train_batch_size", "-1"], "per_device_train_batch_size: must be above 0"),
        (["--beta", "0"], "beta: must be above 0"),
        (["--loss_weights", "1", "2"], "loss_weights"),
        (["--eval_strategy", "steps", "--logging_steps", "0"], "options: "),
    ],
)
def test_values_are_checked_before_anything_is_loaded(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        trainer_config(options(tmp_path, BASE, *flags), 1e-4, tmp_path)
