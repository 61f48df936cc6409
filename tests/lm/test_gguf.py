"""A `.gguf` file is converted once; what is read from the cache afterwards is the same to the bit."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropo.core import cache
from ropo.core.cache import cache_root, clear, gguf_entries, keep_folder, size_of
from ropo.core.errors import UserError
from ropo.lm import gguf
from ropo.lm.loading import load_model, load_shapes, load_tokenizer
from tests.tiny.gguf import write_gguf

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def in_memory(path: Path, dtype: torch.dtype):
    """Load as every command did before there was a cache."""
    return gguf.plain_model(
        AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype), dtype
    ).eval()


def never(*args, **kwargs):
    raise AssertionError("converted a second time")


def assert_same(found, expected):
    theirs = dict(expected.named_parameters()) | dict(expected.named_buffers())
    ours = dict(found.named_parameters()) | dict(found.named_buffers())
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(found(ids).logits, expected(ids).logits)
    left_out = ("_name_or_path", "transformers_version", "architectures")
    configs = [{k: v for k, v in each.config.to_dict().items() if k not in left_out} for each in (found, expected)]
    assert configs[0] == configs[1]
    assert not found.training


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_copy_is_the_model(folder, monkeypatch, tied, dtype):
    path = write_gguf(folder / "tiny.gguf", tied=tied)
    expected = in_memory(path, dtype)
    first = load_model(str(path), dtype)
    monkeypatch.setattr(gguf, "_convert", never)
    second = load_model(str(path), dtype)
    for model in (first, second):
        assert_same(model, expected)
        assert model.name_or_path == model.config._name_or_path == str(path)  # what an adapter names as its base
        assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
        model.save_pretrained(folder / "saved")  # no mark of quantisation is left, which would forbid it


def test_the_copy_is_the_tokenizer(folder, monkeypatch):
    path = write_gguf(folder / "tiny.gguf")
    expected = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    first = load_tokenizer(str(path))
    monkeypatch.setattr(gguf, "_convert_tokenizer", never)
    second = load_tokenizer(str(path))
    for tokenizer in (first, second):
        assert tokenizer.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
        assert tokenizer.chat_template == expected.chat_template
        assert tokenizer.special_tokens_map == expected.special_tokens_map
        assert tokenizer("the hen ate <s>")["input_ids"] == expected("the hen ate <s>")["input_ids"]
        assert tokenizer.name_or_path == str(path)
    assert gguf_entries()[0][:2] == ("tiny.gguf", "tokenizer")  # no command that needs no weights converts them


def test_another_content_or_version_is_another_entry(folder, monkeypatch):
    path = write_gguf(folder / "tiny.gguf")
    before = load_model(str(path))
    write_gguf(path, seed=1)
    os.utime(path, (1, 1))
    changed = load_model(str(path))
    assert not torch.equal(before.get_input_embeddings().weight, changed.get_input_embeddings().weight)
    assert_same(changed, in_memory(path, torch.float32))
    assert len(gguf_entries()) == 2
    moved = shutil.copy(path, folder / "copy.gguf")
    load_model(str(moved))
    assert len(gguf_entries()) == 2
    monkeypatch.setattr(gguf, "version", lambda library: "99.0")
    load_model(str(path))
    assert len(gguf_entries()) == 3


def test_a_damaged_copy_is_made_again(folder):
    path = write_gguf(folder / "tiny.gguf")
    load_model(str(path))
    ((_, _, entry),) = gguf_entries()
    weights = entry / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # not cut in place: a model that is in use has it mapped
    weights.write_bytes(content[:1000])
    assert_same(load_model(str(path)), in_memory(path, torch.float32))
    assert weights.read_bytes() == content


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_writable_cache_it_is_converted_in_memory(folder, monkeypatch, caplog, dtype):
    path = write_gguf(folder / "tiny.gguf")
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))  # whoever the tests run as cannot write below a file
    assert_same(load_model(str(path), dtype), in_memory(path, dtype))
    (message,) = [each.message for each in caplog.records if each.name == "ropo.lm.gguf"]
    assert "was converted in memory" in message
    assert load_tokenizer(str(path)).name_or_path == str(path)


def test_a_full_disk_leaves_nothing(folder, monkeypatch, caplog):
    path = write_gguf(folder / "tiny.gguf")
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(gguf.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert_same(load_model(str(path)), in_memory(path, torch.float32))
    assert "0.0 GB free" in caplog.messages[0] or "0.0 free" in caplog.messages[0]
    assert gguf_entries() == []
    assert list(cache_root().rglob("*.safetensors")) == []


def test_it_is_said_once_with_its_size(folder, caplog):
    path = write_gguf(folder / "tiny.gguf")
    load_tokenizer(str(path))
    load_model(str(path))
    load_model(str(path))
    (message,) = caplog.messages
    assert message.startswith("gguf: tiny.gguf is converted and kept in ")
    assert "(0.00 GB)" in message


def _write_slowly(folder: Path) -> None:
    with (folder / "log").open("a") as log:
        log.write(f"{os.getpid()}\n")


def _keep(folder: Path) -> None:
    keep_folder(folder, _write_slowly)


def test_processes_that_want_the_same_make_it_once(folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_keep, args=(folder / "a" / "entry",)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert len((folder / "a" / "entry" / "log").read_text().split()) == 1
    assert {each.name for each in (folder / "a").iterdir()} == {"entry", "entry.lock"}


def test_what_a_killed_process_left_is_no_entry(folder):
    (folder / "a" / "entry.unfinished").mkdir(parents=True)
    (folder / "a" / "entry.unfinished" / "half").write_text("half")
    keep_folder(folder / "a" / "entry", _write_slowly)
    assert [each.name for each in (folder / "a" / "entry").iterdir()] == ["log"]

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        keep_folder(folder / "a" / "other", fail)
    assert {each.name for each in (folder / "a").iterdir()} == {"entry", "entry.lock", "other.lock"}


def test_bad_files_are_one_line(folder, monkeypatch):
    with pytest.raises(UserError, match="no such file or folder; check the path"):
        load_model(str(folder / "none.gguf"))
    (folder / "text.gguf").write_text("not a model at all")
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="cannot be read as a GGUF file"):
            load(str(folder / "text.gguf"))
    path = write_gguf(folder / "tiny.gguf")
    (folder / "half.gguf").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read as a GGUF file"):
        load_model(str(folder / "half.gguf"))

    def missing(path):
        raise ImportError("no gguf")

    monkeypatch.setattr(gguf, "_convert", missing)
    with pytest.raises(UserError, match=r"need the library gguf, which is not installed; pip install 'ropo\[gguf\]'"):
        load_model(str(path))


def test_the_cache_is_measured_and_cleared(folder):
    load_model(str(write_gguf(folder / "tiny.gguf")))
    (cache_root() / "kernels-1.so").write_bytes(bytes(100))
    before = size_of(cache_root())
    assert before > 10_000
    assert clear() == before
    assert list(cache_root().iterdir()) == []
    assert clear() == 0
    shutil.rmtree(cache_root())
    assert clear() == cache.size_of(cache_root()) == 0


def test_an_adapter_on_it_is_saved_without_a_word_unless_words_were_added(folder):
    """PEFT asks for a config.json beside the file; warnings are errors here."""
    model = get_peft_model(load_model(str(write_gguf(folder / "m.gguf"))), LoraConfig(target_modules=["q_proj"]))
    with gguf.quiet_about_words(model):
        model.save_pretrained(folder / "adapter")
    model.resize_token_embeddings(300, mean_resizing=False)
    with gguf.quiet_about_words(model), pytest.warns(UserWarning, match="Could not find a config file in .*m.gguf"):
        model.save_pretrained(folder / "adapter")


def test_the_library_may_be_missing_for_the_shapes_too(folder, monkeypatch):
    path = write_gguf(folder / "m.gguf")

    def missing(*args, **kwargs):
        raise ImportError("gguf")

    monkeypatch.setattr("ropo.lm.loading.AutoConfig.from_pretrained", missing)
    with pytest.raises(UserError, match=r"need the library gguf, which is not installed; pip install 'ropo\[gguf\]'"):
        load_shapes(str(path))
