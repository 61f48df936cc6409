"""Output folders."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.core.output import check_output, display, finished_folder, working_folder


def make(output, overwrite=False, resume=False, **files):
    with finished_folder(output, overwrite, resume) as folder:
        for name, text in files.items():
            (folder / f"{name}.json").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_when_the_work_is_done(tmp_path):
    output = tmp_path / "a" / "out"
    with finished_folder(output, overwrite=False) as folder:
        (folder / "x").write_text("1")
        assert not output.exists()
    assert names(output) == ["x"]
    assert names(tmp_path / "a") == ["out"]


def fail(output, error, name):
    with finished_folder(output, overwrite=False) as folder:
        (folder / name).mkdir()
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        fail(tmp_path / "out", error, "x")
    assert names(tmp_path) == []


def test_a_failure_keeps_checkpoints_which_can_be_carried_on(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fail(output, KeyboardInterrupt, "checkpoint-5")
    assert names(tmp_path) == ["out.incomplete"]
    with pytest.raises(UserError, match=r"out.incomplete: is left from a run that did not finish.*--overwrite"):
        check_output(output, overwrite=False)
    make(output, resume=True, run="{}")
    assert names(output) == ["checkpoint-5", "run.json"]


def test_overwrite_drops_an_unfinished_run(tmp_path):
    unfinished = working_folder(tmp_path / "out")
    (unfinished / "checkpoint-5").mkdir(parents=True)
    make(tmp_path / "out", overwrite=True, run="{}")
    assert names(tmp_path / "out") == ["run.json"]
    assert not unfinished.exists()


def test_a_filled_folder_is_replaced_only_when_told_and_only_if_ropo_made_it(tmp_path):
    output = tmp_path / "out"
    make(output, run="old", stale="old")
    with pytest.raises(UserError, match=r"out: the folder is not empty; .*--overwrite"):
        make(output, run="new")
    assert (output / "run.json").read_text() == "old"
    make(output, overwrite=True, run="new")
    assert names(output) == ["run.json"]
    assert (output / "run.json").read_text() == "new"

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(UserError, match="replaces only an earlier output of ropo"):
        make(tmp_path / "photos", overwrite=True)
    assert names(tmp_path / "photos") == ["cat.jpg"]


def test_an_empty_folder_may_be_filled_and_a_file_not(tmp_path):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out", run="{}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        check_output(tmp_path / "file", overwrite=True)


def test_paths_are_shown_as_a_user_types_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display(tmp_path / "runs" / "a") == "runs/a"
    assert display(tmp_path.parent / "b") == str(tmp_path.parent / "b")
