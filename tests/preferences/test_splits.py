"""Which files of a folder a split is: exact names win, and what is ambiguous is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropo.core.errors import UserError
from ropo.preferences.read import split_of


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def found(folder: Path, split: str = "train") -> list[str]:
    return [file.relative_to(folder).as_posix() for file in split_of(folder, split)]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        (["train.jsonl", "train_sft.jsonl", "x.train.jsonl"], ["train.jsonl"]),  # the exact name wins
        (["x.train.jsonl", "x.test.jsonl"], ["x.train.jsonl"]),
        (["train_prefs.jsonl", "test_prefs.jsonl"], ["train_prefs.jsonl"]),
        (
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        (["data/train-00000-of-00001-8d3b2b3e0a1c.parquet"], ["data/train-00000-of-00001-8d3b2b3e0a1c.parquet"]),
        (["train/a.jsonl", "train/b.csv", "test/a.jsonl"], ["train/a.jsonl", "train/b.csv"]),
        (["default/train/0000.parquet", "default/test/0000.parquet"], ["default/train/0000.parquet"]),
        (["train_0.jsonl", "train_1.jsonl", "train.2.jsonl"], ["train.2.jsonl", "train_0.jsonl", "train_1.jsonl"]),
        (["Train.jsonl.gz", "Test.jsonl.gz"], ["Train.jsonl.gz"]),
        (
            ["a.jsonl", "b.csv", "constrained.json"],
            ["a.jsonl", "b.csv", "constrained.json"],
        ),  # no split's name anywhere
        (["training.jsonl", "validation.jsonl", "test.jsonl"], ["training.jsonl"]),
        (["uf_training.jsonl", "uf_dev.jsonl"], ["uf_training.jsonl"]),
        (["training.jsonl", "x.train.jsonl"], ["x.train.jsonl"]),
        (["part-0.jsonl", "dataset_info.json", ".cache/train.jsonl", "README.md"], ["part-0.jsonl"]),
    ],
)
def test_the_files_of_a_split(tmp_path, names, wanted) -> None:
    assert found(made(tmp_path, *names)) == wanted


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["data/train_prefs-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet"],
            "data/train_prefs.parquet, data/train_sft.parquet",
        ),
        (["train-prefs.jsonl", "train-sft.jsonl"], "train-prefs.jsonl, train-sft.jsonl"),
        (["train_prefs/0.parquet", "train_sft/0.parquet"], "train_prefs/, train_sft/"),
        (["hh.train.jsonl", "uf.train.jsonl"], "hh.train.jsonl, uf.train.jsonl"),
        (
            ["harmless-base/train.jsonl.gz", "helpful-base/train.jsonl.gz"],
            "harmless-base/train.jsonl.gz, helpful-base/train.jsonl.gz",
        ),
        (["train.jsonl", "train.parquet"], "train.jsonl, train.parquet"),
        (["a/train/0.parquet", "b/train/0.parquet"], "a/train/, b/train/"),
    ],
)
def test_an_ambiguous_split_is_refused_by_name(tmp_path, names, message) -> None:
    with pytest.raises(UserError, match=rf"several sets of files answer to split 'train': {message};"):
        found(made(tmp_path, *names))


def test_a_whole_name_is_a_split(tmp_path) -> None:
    folder = made(tmp_path, "data/train_prefs-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet")
    assert found(folder, "train_sft") == ["data/train_sft-00000-of-00001.parquet"]
    with pytest.raises(
        UserError, match=r"no .* file of split 'test', only data/train_prefs.parquet, data/train_sft.parquet;"
    ):
        found(folder, "test")


@pytest.mark.parametrize(
    ("split", "file"), [("validation", "val"), ("dev", "validation"), ("test", "eval"), ("val", "dev")]
)
def test_another_name_of_the_split(tmp_path, split, file) -> None:
    assert found(made(tmp_path, "training.jsonl", f"{file}.jsonl"), split) == [f"{file}.jsonl"]


def test_several_other_names_are_refused(tmp_path) -> None:
    folder = made(tmp_path, "train.jsonl", "dev.jsonl", "val.jsonl")
    with pytest.raises(UserError, match=r"answer to split 'validation': .*dev.jsonl, .*val.jsonl; name"):
        found(folder, "validation")
    with pytest.raises(UserError, match=r"of split 'test', only .*dev.jsonl, .*train.jsonl, .*val.jsonl; name one"):
        found(folder, "test")


def test_an_empty_folder(tmp_path) -> None:
    with pytest.raises(UserError, match=r"the folder has no .* file of split 'train'; name the file itself"):
        found(made(tmp_path, "README.md"))
