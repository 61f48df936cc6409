"""`ropo cache`."""

from __future__ import annotations

from ropo.cli.main import main
from ropo.core.cache import cache_root, size_of
from ropo.lm.loading import load_model
from tests.tiny.gguf import write_gguf


def test_it_lists_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/ropo: 0.0 MB\n"
    load_model(str(write_gguf(tmp_path / "tiny.gguf")))
    (cache_root() / "kernels-1.so").write_bytes(bytes(2_000_000))
    assert main(["cache"]) == 0
    total, *entries = capsys.readouterr().out.splitlines()
    assert total == f"{tmp_path}/ropo: 2.1 MB"
    assert [each.strip() for each in entries] == ["0.1 MB  model of tiny.gguf", "2.0 MB  compiled kernels"]
    assert main(["env"]) == 0
    size = f"{size_of(cache_root()) / 1e6:,.1f} MB"  # with the kernels that it has just compiled
    assert f"{tmp_path}/ropo ({size})" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"deleted {size} in {tmp_path}/ropo\n"
    assert list(cache_root().iterdir()) == []
