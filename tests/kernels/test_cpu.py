"""The C kernels against plain PyTorch in float64, compiled for this processor and for the oldest of its kind."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ropo.adapter import plain_stretch
from ropo.adapter import stretch as adapter_stretch
from ropo.kernels import trust
from ropo.kernels.cpu import library, rotation, stretch
from ropo.rotations import batched, build_blocks, products, rotate
from ropo.rotations.products import products_for

pytestmark = pytest.mark.skipif(library.compiler() is None, reason="no C compiler here, or not Linux")

WIDTHS = [32, 64, 224]
TOKENS = [0, 1, 31, 33, 130]
TOLERANCE = 1e-6  # sums of up to 250 float32 products
BUILDS = {"this processor": library.FLAGS}
if platform.machine() == "x86_64":  # vectors of four numbers instead of eight or sixteen
    BUILDS["any x86-64"] = tuple(flag for flag in library.FLAGS if flag != "-march=native")


def forget() -> None:
    library._library.cache_clear()
    library._kernel.cache_clear()
    trust._tried.cache_clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for compiled kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "ropo"
    forget()


@pytest.fixture(params=list(BUILDS))
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of one build, called with three threads."""
    monkeypatch.setattr(library, "FLAGS", BUILDS[request.param])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(library, "NUMBERS_FOR_A_THREAD", 1)


def assert_close(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...], sizes: tuple[Tensor, ...] | None = None) -> None:
    """Compare with the size of each result, or of what it is a sum of where that may cancel."""
    for mine, truth, size in zip(ours, exact, sizes or exact, strict=True):
        assert mine.dtype == torch.float32
        assert mine.shape == truth.shape
        assert (mine.double() - truth).norm() <= TOLERANCE * size.double().norm()


def blocks_of(width: int, shared: int) -> list[Tensor]:
    """Return local, read, write and mix; `local` lies transposed, as in a backward pass."""
    blocks, channels = width // 32, width // 32 + shared
    read, write = torch.randn(blocks, 1 + shared, 32), torch.randn(32, 1 + shared, blocks).mT.transpose(0, 1).mT
    return [torch.randn(blocks, 32, 32).mT, read, write.reshape(read.shape), torch.randn(channels, channels)]


@pytest.mark.usefixtures("build")
def test_rotations_and_their_gradients() -> None:
    seen = 0
    for width, tokens, shared in itertools.product(WIDTHS, TOKENS, [0, 2, 5]):
        local, read, write, mix = blocks_of(width, shared)
        x, grad = torch.randn(width, tokens).T, torch.randn(tokens, 2 * width)[:, ::2]
        mixed, mixed_back = torch.randn(2, len(mix), tokens)
        exact = [each.double() for each in (x, grad, mixed, mixed_back, local, read)]
        assert_close(
            rotation.rotated(x, local, read, write, mix),
            batched.rotated(*(each.double() for each in (x, local, read, write, mix))),
        )
        assert_close(rotation.gradients(x, grad, mixed, mixed_back, local, read), batched.gradients(*exact))
        seen += 1
    assert seen == 45


@pytest.mark.usefixtures("build")
def test_stretches_and_their_gradients() -> None:
    seen = 0
    for neurons, tokens, biased in itertools.product([1, 33, 192], [*TOKENS, 64, 65], [True, False]):
        y, grad = torch.randn(tokens, neurons), torch.randn(neurons, tokens).T
        scale, bias = torch.randn(neurons).exp(), torch.randn(neurons) if biased else None
        wide = [None if each is None else each.double() for each in (y, grad, scale, bias)]
        ours = stretch.stretched(y, scale, bias), *stretch.gradients(grad, y, scale, bias)
        exact = plain_stretch.stretched(wide[0], *wide[2:]), *plain_stretch.gradients(wide[1], wide[0], *wide[2:])
        kept = bias.abs() if biased else torch.zeros(())
        sizes = scale * (y.abs() + kept) + kept, exact[1], (grad.abs() * (y.abs() + kept)).sum(0)
        assert_close(ours, exact, sizes)
        seen += 1
    assert seen == 42


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "NUMBERS_FOR_A_THREAD", 1)
    local, read, write, mix = blocks_of(224, 2)
    x, grad = torch.randn(300, 224), torch.randn(300, 224)
    mixed = torch.randn(len(mix), 300)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(
            (
                *rotation.rotated(x, local, read, write, mix),
                *rotation.gradients(x, grad, mixed, mixed.flip(0), local, read),
                *stretch.gradients(grad, x, x[0].exp(), None),
            )
        )
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_small_work_wakes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    threads: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(library, "_kernel", lambda *of: lambda *arguments: threads.append(arguments[2]))
        for tokens in (0, 1, 1023, 1024, 2048, 100_000):
            library.call("ropo_stretch", (tokens, 64), ())
    assert threads == [1, 1, 1, 2, 4, 8]


def test_an_adapted_layer_uses_them_for_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    x, local = torch.randn(3, 96), build_blocks(96, torch.randn(2, 95), None).local
    assert products_for(x, local) is rotation
    assert products_for(x.bfloat16(), local) is batched
    assert products_for(x.double(), local.double()) is batched
    assert products_for(torch.randn(3, 101), build_blocks(101, torch.randn(2, 100), None).local) is batched
    assert products_for(torch.randn(3, 16), build_blocks(16, torch.randn(2, 15), None).local) is batched  # blocks of 16
    assert adapter_stretch._arithmetic_for(x, torch.ones(96)) is stretch
    assert adapter_stretch._arithmetic_for(x.bfloat16(), torch.ones(96)) is plain_stretch
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert products_for(x, local) is batched


def test_under_autocast_and_in_many_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotate as a layer does, gradients included, in float32 whatever autocast says."""
    leaves = [torch.randn(2, 3, 5, 96), torch.randn(2, 95), torch.randn(2, 96)]
    weights = torch.randn(2, 3, 5, 96)

    def results(dtype: torch.dtype) -> list[Tensor]:
        x, givens, vectors = (leaf.to(dtype).requires_grad_() for leaf in leaves)
        with torch.autocast("cpu", enabled=dtype == torch.float32):
            output = rotate(x, build_blocks(96, givens, vectors))
            return [output, *torch.autograd.grad((output * weights.to(dtype)).sum(), (x, givens, vectors))]

    used: list[object] = []
    choose = products.products_for
    monkeypatch.setattr(
        sys.modules["ropo.rotations.rotate"], "products_for", lambda *of: used.append(choose(*of)) or used[-1]
    )
    assert_close(tuple(results(torch.float32)), tuple(results(torch.float64)))
    assert used == [rotation, rotation, batched, batched]


def test_compiled_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(
        library.subprocess, "run", lambda command, **options: runs.append(command) or run(command, **options)
    )
    for _ in range(2):
        stretch.stretched(torch.ones(2, 3), torch.ones(3), None)
        forget()
    assert len(runs) == 1
    assert [file.suffix for file in cache.iterdir()] == [".so"]
    monkeypatch.setattr(library, "_processor", lambda: "another one, that shares the home folder")
    stretch.stretched(torch.ones(2, 3), torch.ones(3), None)
    assert len(runs) == 2


def test_where_nothing_can_be_kept_they_work_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(stretch.stretched(torch.ones(2, 3), torch.full((3,), 2.0), None), torch.full((2, 3), 2.0))


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-march=abacus"))
    with pytest.raises(OSError, match=r"(?s)could not compile them: .*abacus"):
        stretch.stretched(torch.ones(2, 3), torch.ones(3), None)


def test_compiles_for_avx512_too(tmp_path: Path) -> None:
    """Which this machine may not have, so that it is only compiled."""
    if platform.machine() != "x86_64":
        pytest.skip("not an x86-64 machine")
    flags = [flag for flag in library.FLAGS if flag != "-march=native"]
    command = [library.compiler(), *flags, "-march=skylake-avx512", *library.SOURCES, "-o", tmp_path / "kernels.so"]
    subprocess.run(command, check=True)
