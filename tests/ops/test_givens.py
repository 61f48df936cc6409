import pytest
import torch

from ropo.ops import GivensTree
from ropo.ops.reference import tree_levels
from tests.ops.oracle import dense_forward, dense_reverse, planes

SIZES = [1, 2, 3, 7, 12, 64, 101]


@pytest.mark.parametrize("dim", [*SIZES, 576, 4096])
def test_tree_has_one_plane_less_than_coordinates(dim: int) -> None:
    levels = tree_levels(dim)
    assert sum(count for _, count in levels) == dim - 1 == len(planes(dim))
    assert [stride for stride, _ in levels] == [2**level for level in range(len(levels))]


@pytest.mark.parametrize("dim", SIZES)
@pytest.mark.parametrize(("order", "dense"), [("forward", dense_forward), ("reverse", dense_reverse)])
def test_apply_and_transpose_equal_dense_product_of_planes(dim, order, dense) -> None:
    torch.manual_seed(dim)
    angles = torch.randn(dim - 1, dtype=torch.float64)
    tree, expected = GivensTree(angles, order), dense(angles)
    rows = torch.randn(2, 3, dim, dtype=torch.float64)
    torch.testing.assert_close(tree.to_dense(), expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(tree.apply(rows), rows @ expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(tree.apply_transpose(rows), rows @ expected.T, atol=1e-13, rtol=0)


def test_forward_tree_takes_any_vector_to_the_first_axis() -> None:
    """Worked by hand: atan2 of each pair, level after level, moves all of a vector's length into coordinate 0."""
    torch.manual_seed(0)
    vector = torch.randn(7, dtype=torch.float64)
    left, angles = vector.clone(), []
    for first, second in planes(7):
        angle = -torch.atan2(left[second], left[first])
        left[first], left[second] = torch.hypot(left[first], left[second]), 0.0
        angles.append(angle)
    forward = GivensTree(torch.stack(angles), "forward").to_dense() @ vector
    torch.testing.assert_close(forward[0], vector.norm(), atol=1e-12, rtol=0)
    assert forward[1:].abs().max() < 1e-12
    back = GivensTree(-torch.stack(angles), "reverse").to_dense() @ forward
    torch.testing.assert_close(back, vector, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_result_has_the_inputs_dtype_and_one_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    angles = torch.randn(575)
    rows = torch.randn(16, 576).to(dtype)
    exact = GivensTree(angles.double(), "forward").apply(rows.double())
    result = GivensTree(angles, "forward").apply(rows)
    assert result.dtype == dtype
    step = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    # half a step from the final rounding; the ten float32 levels before it add a few float32 steps
    assert ((result.double() - exact).abs().max() / exact.abs().max()) < 0.5 * step + 4 * torch.finfo(torch.float32).eps
