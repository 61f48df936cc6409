import pytest
import torch

from ropo.ops import Reflections, ropo_rotation
from tests.ops.oracle import dense_forward, dense_reflections, dense_reverse


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 12, 64, 101])
@pytest.mark.parametrize("count", [2, 4])
def test_apply_and_transpose_equal_dense_product(dim: int, count: int) -> None:
    torch.manual_seed(dim)
    vectors = torch.randn(count, dim, dtype=torch.float64)
    reflections, expected = Reflections(vectors), dense_reflections(vectors)
    rows = torch.randn(5, dim, dtype=torch.float64)
    torch.testing.assert_close(reflections.to_dense(), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(reflections.apply(rows), rows @ expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(reflections.apply_transpose(rows), rows @ expected.T, atol=1e-12, rtol=0)


def test_equal_pairs_are_the_identity_with_a_gradient() -> None:
    torch.manual_seed(0)
    half = torch.randn(2, 12, dtype=torch.float64)
    vectors = half.repeat_interleave(2, 0).requires_grad_()
    dense = Reflections(vectors).to_dense()
    torch.testing.assert_close(dense, torch.eye(12, dtype=torch.float64), atol=1e-14, rtol=0)
    (dense * torch.randn(12, 12, dtype=torch.float64)).sum().backward()
    assert (vectors.grad.norm(dim=1) > 1e-3).all()


def test_whole_rotation_is_reverse_forward_reflections_in_this_order() -> None:
    torch.manual_seed(0)
    givens, vectors = torch.randn(2, 10, dtype=torch.float64), torch.randn(2, 11, dtype=torch.float64)
    expected = dense_reverse(givens[1]) @ dense_forward(givens[0]) @ dense_reflections(vectors)
    rotation = ropo_rotation(11, givens, vectors)
    torch.testing.assert_close(rotation.to_dense(torch.float64), expected, atol=1e-13, rtol=0)
    assert torch.linalg.det(expected) > 0.999
    rows = torch.randn(4, 11, dtype=torch.float64)
    torch.testing.assert_close(rotation.apply_transpose(rotation.apply(rows)), rows, atol=1e-13, rtol=0)
