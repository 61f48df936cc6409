"""The fast path against the readable one, gradients included."""

import pytest
import torch
from torch import Tensor

from ropo.ops import build_blocks, plain, ropo_rotation, rotation_of
from tests.ops.oracle import apply_plane_by_plane, dense_forward, dense_reflections, dense_reverse

SIZES = [1, 2, 3, 7, 12, 31, 32, 33, 64, 101, 576, 1000]
VARIANTS = [(2, 2), (2, 0), (1, 2), (0, 2), (2, 4)]


def parameters(dim: int, trees: int, reflections: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(dim)
    givens = torch.randn(trees, dim - 1, dtype=torch.float64, generator=generator).to(dtype) if trees else None
    vectors = torch.randn(reflections, dim, dtype=torch.float64, generator=generator).to(dtype) if reflections else None
    return givens, vectors


def output_and_gradients(function, tensors: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), leaves, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("dim", SIZES)
@pytest.mark.parametrize(("trees", "reflections"), VARIANTS)
def test_output_and_gradients_equal_the_reference(dim: int, trees: int, reflections: int) -> None:
    givens, vectors = parameters(dim, trees, reflections)
    given = [part for part in (givens, vectors) if part is not None]

    def split(parts):
        parts = list(parts)
        return (parts.pop(0) if trees else None), (parts.pop(0) if reflections else None)

    x = torch.randn(3, 5, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fast = output_and_gradients(lambda x, *parts: build_blocks(dim, *split(parts)).apply(x), [x, *given])
    slow = output_and_gradients(lambda x, *parts: ropo_rotation(dim, *split(parts)).apply(x), [x, *given])
    assert len(fast) == 2 + len(given)
    for ours, reference in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 12, 64, 101, 576, 4096])
def test_output_equals_planes_turned_one_by_one(dim: int) -> None:
    givens, vectors = parameters(dim, 2, 2)
    x = torch.randn(4, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = build_blocks(dim, givens, vectors).apply(x)
    torch.testing.assert_close(result, apply_plane_by_plane(x, givens, vectors), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dim", [3, 7, 12])
def test_gradcheck_against_finite_differences_of_a_dense_rotation(dim: int) -> None:
    givens, vectors = parameters(dim, 2, 2)
    x = torch.randn(2, dim, dtype=torch.float64)
    dense = dense_reverse(givens[1]) @ dense_forward(givens[0]) @ dense_reflections(vectors)
    torch.testing.assert_close(build_blocks(dim, givens, vectors).apply(x), x @ dense, atol=1e-13, rtol=0)
    inputs = [tensor.requires_grad_() for tensor in (x, givens, vectors)]
    assert torch.autograd.gradcheck(lambda x, g, v: build_blocks(dim, g, v).apply(x), inputs)


@pytest.mark.parametrize("make", [build_blocks, rotation_of])
@pytest.mark.parametrize("dim", SIZES)
@pytest.mark.parametrize(("trees", "reflections"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_pairs_of_reflections_change_no_bit(make, dim, trees, reflections, dtype) -> None:
    """A new adapter: no angle, and each vector twice."""
    givens = torch.zeros(trees, dim - 1) if trees else None
    vectors = torch.randn(reflections // 2, dim).repeat_interleave(2, 0) if reflections else None
    x = torch.randn(70, dim).to(dtype)
    assert torch.equal(make(dim, givens, vectors).apply(x), x)


@pytest.mark.parametrize("make", [build_blocks, rotation_of])
def test_an_odd_number_of_reflections_is_refused(make) -> None:
    with pytest.raises(ValueError, match="even number of vectors, got 3"):
        make(7, None, torch.randn(3, 7)).apply(torch.randn(2, 7))


@pytest.mark.parametrize("make", [build_blocks, rotation_of])
def test_opposite_and_nearly_equal_vectors(make) -> None:
    """The pair is written by the step from one unit vector to the other: the largest there is, and a very small one."""
    first = torch.randn(1, 64)
    x = torch.randn(20, 64)
    for second, tolerance in (
        (-first, 1e-6),
        (first + 1e-3 * torch.randn(1, 64), 1e-6),
        (first + 1e-6 * torch.randn(1, 64), 1e-6),
    ):
        vectors = torch.cat([first, second])
        fast = output_and_gradients(lambda x, v: make(64, None, v).apply(x), [x, vectors])
        exact = output_and_gradients(lambda x, v: ropo_rotation(64, None, v).apply(x), [x.double(), vectors.double()])
        for ours, reference in zip(fast, exact, strict=True):
            assert (ours.double() - reference).norm() <= tolerance * reference.norm()


@pytest.mark.parametrize("shape", [(101,), (0, 101), (4, 101), (2, 3, 101), (2, 3, 2, 101)])
def test_any_number_of_batch_dimensions(shape: tuple[int, ...]) -> None:
    givens, vectors = parameters(101, 2, 2)
    x = torch.randn(shape, dtype=torch.float64)
    fast = output_and_gradients(lambda x, g, v: build_blocks(101, g, v).apply(x), [x, givens, vectors])
    slow = output_and_gradients(lambda x, g, v: ropo_rotation(101, g, v).apply(x), [x, givens, vectors])
    for ours, reference in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-12, rtol=0)


def test_non_contiguous_input_and_shared_input() -> None:
    """A transposed x, and one x that feeds two rotations as it feeds q and v: the gradients add up."""
    (g1, v1), (g2, v2) = parameters(64, 2, 2), parameters(64, 2, 0)
    x = torch.randn(64, 10, dtype=torch.float64).T
    assert not x.is_contiguous()

    def fast(x, g1, v1, g2):
        return build_blocks(64, g1, v1).apply(x) * build_blocks(64, g2, v2).apply(x)

    def slow(x, g1, v1, g2):
        return ropo_rotation(64, g1, v1).apply(x) * ropo_rotation(64, g2, v2).apply(x)

    for ours, reference in zip(
        output_and_gradients(fast, [x, g1, v1, g2]), output_and_gradients(slow, [x, g1, v1, g2]), strict=True
    ):
        torch.testing.assert_close(ours, reference, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dim", [7, 101])
def test_slices_of_tokens_add_up(dim: int, monkeypatch) -> None:
    """The gradients of a batch that is worked on in many slices, the last of them shorter."""
    monkeypatch.setattr(plain, "CACHED_NUMBERS", 2 * dim)
    assert [part.start for part in plain._token_slices(torch.empty(5, dim))] == [0, 2, 4]
    givens, vectors = parameters(dim, 2, 2)
    x = torch.randn(5, dim, dtype=torch.float64)
    fast = output_and_gradients(lambda x, g, v: build_blocks(dim, g, v).apply(x), [x, givens, vectors])
    slow = output_and_gradients(lambda x, g, v: ropo_rotation(dim, g, v).apply(x), [x, givens, vectors])
    for ours, reference in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [101, 576, 4096, 16384])
def test_error_at_most_twice_that_of_a_dense_product(dtype: torch.dtype, dim: int) -> None:
    """Against float64, as flash-attention is tested: the yardstick is x @ W with any W of the same size and dtype."""
    givens, vectors = parameters(dim, 2, 2, torch.float32)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(32, dim, generator=generator).to(dtype)
    exact = build_blocks(dim, givens.double(), vectors.double()).apply(x.double())
    ours = build_blocks(dim, givens, vectors).apply(x)
    assert ours.dtype == dtype
    columns = min(dim, 1024)  # a slice of a dense orthogonal-scaled matrix is enough to measure its product's error
    weight = (torch.randn(dim, columns, generator=generator) / dim**0.5).to(dtype)
    dense_exact = x.double() @ weight.double()
    error = (ours.double() - exact).norm() / exact.norm()
    dense_error = ((x @ weight).double() - dense_exact).norm() / dense_exact.norm()
    assert error <= 2 * dense_error, (error, dense_error)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("dim", [101, 576, 2048])
def test_the_applied_map_is_orthogonal(dtype: torch.dtype, bound: float, dim: int) -> None:
    givens, vectors = parameters(dim, 2, 2, dtype)
    applied = build_blocks(dim, givens, vectors).apply(torch.eye(dim, dtype=dtype)).double()
    assert (applied.T @ applied - torch.eye(dim, dtype=torch.float64)).abs().max() <= bound


def test_nothing_of_size_d_by_d_nor_proportional_to_depth_is_kept() -> None:
    dim, tokens = 4096, 64
    givens, vectors = parameters(dim, 2, 2, torch.float32)
    x = torch.randn(tokens, dim, requires_grad=True)
    saved: list[int] = []
    blocks = build_blocks(dim, givens, vectors)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        blocks.apply(x)
    assert saved
    small = blocks.packed.numel()
    assert sum(saved) <= tokens * dim + tokens * (dim // 32 + 2) + small
    assert small < dim * dim / 64


def test_fails_without_anything_to_rotate() -> None:
    with pytest.raises(ValueError, match="identity"):
        build_blocks(8, None, None)
