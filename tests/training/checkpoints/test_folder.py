"""Whole checkpoints, and those that are not."""

from __future__ import annotations

import os

import pytest

from ropo.training.checkpoints.folder import complete, find_fault, newest_whole, unfinished_folder


def make(folder):
    unfinished = unfinished_folder(folder)
    (unfinished / "ref").mkdir(parents=True)
    for name in ("optimizer.json", "optimizer.safetensors", "ref/adapter_model.safetensors"):
        (unfinished / name).write_text(f"content of {name}")
    complete(folder)
    return folder


def flip(file):
    file.write_bytes(file.read_bytes()[:-1] + b"X")


DAMAGES = {
    "torn": (lambda folder: os.truncate(folder / "optimizer.safetensors", 5), "optimizer.safetensors has 5 bytes, not"),
    "flipped": (lambda folder: flip(folder / "ref/adapter_model.safetensors"), "ref/adapter_model.safetensors is dama"),
    "missing": (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no readable manifest.json"),
    "torn manifest": (lambda folder: os.truncate(folder / "manifest.json", 9), "no readable manifest.json"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "no readable manifest.json"),
    "foreign file": (lambda folder: (folder / "extra.json").touch(), "extra.json is not in its manifest"),
    "pickle": (lambda folder: (folder / "rng_state.pth").touch(), "rng_state.pth is a pickle, which is never read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_recognised(tmp_path, damage):
    folder = make(tmp_path / "checkpoint-1")
    assert find_fault(folder) is None
    do, fault = DAMAGES[damage]
    do(folder)
    assert str(find_fault(folder)).startswith(fault)


def test_a_pickle_that_the_manifest_lists_is_refused_too(tmp_path):
    folder = tmp_path / "checkpoint-1"
    unfinished_folder(folder).mkdir()
    for name in ("optimizer.json", "optimizer.pt"):
        (unfinished_folder(folder) / name).touch()
    complete(folder)
    assert find_fault(folder) == "optimizer.pt is a pickle, which is never read"


def test_weights_alone_are_no_checkpoint_to_go_on_from(tmp_path):
    folder = tmp_path / "checkpoint-1"
    unfinished_folder(folder).mkdir()
    complete(folder)
    assert find_fault(folder) == "weights only, without the optimizer"


def test_the_newest_is_the_one_with_the_most_steps_not_the_last_name(tmp_path):
    for step in (9, 100, 20):
        make(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    unfinished_folder(tmp_path / "checkpoint-200").mkdir()
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-100", {})
    (tmp_path / "checkpoint-100" / "optimizer.json").unlink()
    checkpoint, faults = newest_whole(tmp_path)
    assert checkpoint == tmp_path / "checkpoint-20"
    assert faults == {tmp_path / "checkpoint-100": "optimizer.json is missing"}
    assert newest_whole(tmp_path / "nowhere") == (None, {})


def test_the_same_step_is_written_again(tmp_path):
    folder = make(tmp_path / "checkpoint-1")
    (folder / "optimizer.json").unlink()
    assert find_fault(make(folder)) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1"]
