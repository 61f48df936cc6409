"""The C kernels against plain PyTorch in float64, compiled for this processor and for the oldest of its kind."""

from __future__ import annotations

import itertools
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ropo.ops import Planes, build_blocks, by_planes, choose, plain, ropo_rotation
from ropo.ops.choose import stretching_for
from ropo.ops.cpu import library, rotation, stretch

pytestmark = pytest.mark.skipif(library.compiler() is None, reason="no C compiler here, or not Linux")

WIDTHS = [1, 2, 3, 8, 33, 128, 300]  # whole vectors and not, less and more than the kernels' blocks
TOKENS = [0, 1, 15, 16, 17, 70]
TOLERANCE = 1e-6  # sums of up to 300 float32 products
BUILDS = {"this processor": library.FLAGS}
if platform.machine() == "x86_64":  # vectors of four numbers instead of eight or sixteen
    BUILDS["any x86-64"] = tuple(flag for flag in library.FLAGS if flag != "-march=native")


def forget() -> None:
    library._library.cache_clear()
    library._kernel.cache_clear()
    choose._tried.cache_clear()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests keep kernels: each build takes two seconds."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def _own_folder(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled))
    forget()
    yield
    forget()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for compiled kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ropo"


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


def reference(x: Tensor, grad: Tensor, givens: Tensor | None, reflections: Tensor | None) -> list[Tensor]:
    """Return x R and the gradients in float64, factor by factor; one coordinate has no planes, so no gradient."""
    leaves = [None if part is None else part.double().requires_grad_() for part in (x, givens, reflections)]
    output = ropo_rotation(x.shape[-1], *leaves[1:]).apply(leaves[0])
    given = [leaf for leaf in leaves if leaf is not None]
    grads = torch.autograd.grad(output, given, grad.double(), allow_unused=True, materialize_grads=True)
    return [output.detach(), *grads]


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("width", WIDTHS)
def test_rotations_and_their_gradients(width: int) -> None:
    seen = 0
    for tokens, trees, k in itertools.product(TOKENS, [0, 1, 2], [0, 2, 4]):
        if trees == k == 0:
            continue
        x, grad = torch.randn(width, tokens).T, torch.randn(tokens, 2 * width)[:, ::2]
        givens = 3 * torch.randn(width - 1, trees).T if trees else None
        reflections = torch.randn(width, k).T if k else None
        output, table = rotation.turned(x, givens, reflections)
        grads = rotation.turned_back(x, grad, table, trees, k)
        assert [part is None for part in grads] == [False, not trees, not k]
        ours = output, *(part for part in grads if part is not None)
        of_sums = x.norm() * grad.norm()  # of what is a sum of products of both, and may cancel
        sizes = [x, grad] + [of_sums] * bool(trees)
        if reflections is not None:
            sizes.append(4 * of_sums / reflections.norm(dim=1).min())
        assert_close(ours, tuple(reference(x, grad, givens, reflections)), tuple(sizes))
        seen += 1
    assert seen == 48


@pytest.mark.usefixtures("build")
def test_stretches_and_their_gradients() -> None:
    seen = 0
    for neurons, tokens, biased in itertools.product([1, 33, 192], [*TOKENS, 64, 65], [True, False]):
        y, grad = torch.randn(2, tokens, neurons), torch.randn(neurons, tokens, 2).permute(2, 1, 0)
        log_scale, bias = torch.randn(neurons), torch.randn(neurons) if biased else None
        wide = [None if each is None else each.double() for each in (y, grad, log_scale, bias)]
        z, scale = stretch.stretched(y, log_scale, bias)
        ours = z, scale, *stretch.gradients(grad, y, scale, bias)
        exact_z, exact_scale = plain.stretched(wide[0], *wide[2:])
        exact = exact_z, exact_scale, *plain.gradients(wide[1], wide[0], exact_scale, wide[3])
        kept = bias.abs() if biased else torch.zeros(())
        sizes = scale * (y.abs() + kept) + kept, scale, exact[2], (grad.abs() * (y.abs() + kept)).sum((0, 1))
        assert_close(ours, exact, sizes)
        seen += 1
    assert seen == 48


def test_activations_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over tokens do, in their last bits: each thread adds up its own tokens first."""
    monkeypatch.setattr(library, "NUMBERS_FOR_A_THREAD", 1)
    x, grad, givens, reflections = (
        torch.randn(300, 224),
        torch.randn(300, 224),
        torch.randn(2, 223),
        torch.randn(2, 224),
    )
    results, sums = [], []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        output, table = rotation.turned(x, givens, reflections)
        grad_x, *grads = rotation.turned_back(x, grad, table, 2, 2)
        results.append((output, table, grad_x, *stretch.gradients(grad, x, x[0].exp(), None)))
        sums.append(grads)
    for number in (1, 2):
        assert all(torch.equal(one, other) for one, other in zip(results[0], results[number], strict=True))
        assert_close(tuple(sums[number]), tuple(each.double() for each in sums[0]))


def test_small_work_wakes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    numbers = (0, 1, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 17, 1 << 23)
    assert [library.threads_for(each) for each in numbers] == [1, 1, 1, 1, 2, 4, 8]


def test_an_adapted_layer_uses_them_for_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 96)
    assert by_planes(torch.nn.Parameter(x))
    assert not by_planes(x.double())
    assert not by_planes(x.bfloat16())
    assert not by_planes(x.to("meta"))
    assert not by_planes(x.as_subclass(type("Sharded", (Tensor,), {})))
    assert stretching_for(x, torch.ones(96)) is stretch
    assert stretching_for(x.bfloat16(), torch.ones(96)) is plain
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not by_planes(x)
    assert stretching_for(x, torch.ones(96)) is plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_activations_of_another_dtype(dtype: torch.dtype) -> None:
    """Rotated in float32, that of the parameters, and rounded once."""
    leaves = [torch.randn(5, 101).to(dtype), torch.randn(2, 100), torch.randn(2, 101)]
    grad = torch.randn(5, 101).to(dtype)
    x, givens, reflections = (leaf.requires_grad_() for leaf in leaves)
    output = Planes(givens, reflections).apply(x)
    grads = torch.autograd.grad(output, leaves, grad)
    assert output.dtype == grads[0].dtype == dtype
    assert grads[1].dtype == grads[2].dtype == torch.float32
    epsilon = 1e-6 if dtype == torch.float64 else torch.finfo(dtype).eps
    bounds = [epsilon, epsilon, 1e-5, 1e-5]
    for mine, truth, bound in zip((output, *grads), reference(x.detach(), grad, *leaves[1:]), bounds, strict=True):
        assert (mine.double() - truth).norm() <= bound * truth.norm()


def test_in_many_dimensions_under_autocast() -> None:
    x, givens, reflections = torch.randn(2, 3, 5, 96), torch.randn(2, 95), torch.randn(2, 96)
    grad = torch.randn(2, 3, 5, 96)
    leaves = [each.clone().requires_grad_() for each in (x, givens, reflections)]
    with torch.autocast("cpu"):
        output = Planes(*leaves[1:]).apply(leaves[0])
    ours = output.detach(), *torch.autograd.grad(output, leaves, grad)
    assert_close(ours, tuple(reference(x, grad, givens, reflections)))


def test_a_rotation_is_what_blocks_make_of_it() -> None:
    x, givens, reflections = torch.randn(40, 576), torch.randn(2, 575), torch.randn(2, 576)
    by_blocks = build_blocks(576, givens.double(), reflections.double()).apply(x.double())
    assert_close((Planes(givens, reflections).apply(x),), (by_blocks,))


def test_compiled_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(
        library.subprocess, "run", lambda command, **options: runs.append(command) or run(command, **options)
    )
    for _ in range(2):
        stretch.stretched(torch.ones(2, 3), torch.zeros(3), None)
        forget()
    assert len(runs) == 1
    assert [file.suffix for file in cache.iterdir()] == [".so"]
    for changed, value in (("_processor", lambda: "another one, that shares the home folder"), ("HEADERS", ())):
        monkeypatch.setattr(library, changed, value)
        forget()
        stretch.stretched(torch.ones(2, 3), torch.zeros(3), None)
    assert len(runs) == 3


def test_where_nothing_can_be_kept_they_work_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    z, _ = stretch.stretched(torch.full((2, 3), 2.0), torch.zeros(3), None)
    assert torch.equal(z, torch.full((2, 3), 2.0))


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-march=abacus"))
    with pytest.raises(OSError, match=r"(?s)could not compile them: .*abacus"):
        stretch.stretched(torch.ones(2, 3), torch.zeros(3), None)


def test_compiles_for_avx512_too(tmp_path: Path) -> None:
    """Which this machine may not have, so that it is only compiled."""
    if platform.machine() != "x86_64":
        pytest.skip("not an x86-64 machine")
    flags = [flag for flag in library.FLAGS if flag != "-march=native"]
    command = [
        library.compiler(),
        *flags,
        "-march=skylake-avx512",
        *library.SOURCES,
        "-o",
        tmp_path / "kernels.so",
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
