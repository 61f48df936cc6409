"""Mask-free attention over segments against the dense mask, in float64; idle memory is given back after growth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ropo.lm.packing import attention
from ropo.lm.packing.attention import no_mask, packed_attention
from ropo.lm.packing.cpu_attention import SLACK, IdleMemory, attend_segments, idle_memory
from ropo.lm.packing.layout import Segment
from tests.training.packing_helpers import dense_mask, one_pack

SEGMENTS = {
    "one": (Segment(7),),
    "a pair": (Segment(9), Segment(5, 0, 4)),
    "prefix of one": (Segment(4), Segment(3, 0, 1)),
    "answers of one token": (Segment(6), Segment(1, 0, 5), Segment(1, 0, 5)),
    "a prefix inside the row": (Segment(8), Segment(6), Segment(5, 8, 3), Segment(4, 0, 2)),
    "longer than a block of the kernel": (Segment(700), Segment(300, 0, 650)),
}


class Layout:
    """The part of a pack that the dense mask reads."""

    def __init__(self, segments: tuple[Segment, ...]) -> None:
        self.segments = segments
        self.tokens = sum(segment.length for segment in segments)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("case", SEGMENTS)
def test_values_and_gradients_equal_the_dense_mask(case, kv_heads):
    pack = Layout(SEGMENTS[case])
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    inputs = [torch.randn(1, heads, pack.tokens, 8, **options) for heads in (6, kv_heads, kv_heads)]
    weights = torch.randn(1, pack.tokens, 6, 8, generator=generator, dtype=torch.float64)
    found = attend_segments(*inputs, pack.segments, 0.7)
    gradients = torch.autograd.grad((found * weights).sum(), inputs)
    mask = dense_mask(pack, None)
    expected = F.scaled_dot_product_attention(*inputs, mask, scale=0.7, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    assert len(gradients) == 3
    for gradient, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=1e-10)


def test_half_precision_is_as_near_as_plain_attention():
    pack = Layout(SEGMENTS["a pair"])
    generator = torch.Generator().manual_seed(1)
    exact = [torch.randn(1, heads, pack.tokens, 8, generator=generator).bfloat16().double() for heads in (4, 2, 2)]
    truth = F.scaled_dot_product_attention(*exact, dense_mask(pack, None), enable_gqa=True).transpose(1, 2)
    found = attend_segments(*(tensor.bfloat16() for tensor in exact), pack.segments, None)
    assert found.dtype == torch.bfloat16
    assert (found.double() - truth).abs().max() < 2e-2  # bf16 keeps 8 bits of values up to 3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_of_half_precision_are_summed_in_float32(seed):
    pack = Layout((Segment(9), Segment(5, 0, 4), Segment(6, 0, 9), Segment(6, 0, 9)))
    generator = torch.Generator().manual_seed(seed)
    halves = [
        torch.randn(1, heads, pack.tokens, 8, generator=generator).bfloat16().requires_grad_() for heads in (4, 2, 2)
    ]
    exact = [tensor.detach().double().requires_grad_() for tensor in halves]
    truth = F.scaled_dot_product_attention(*exact, dense_mask(pack, None), enable_gqa=True).transpose(1, 2)
    weights = torch.randn(truth.shape, generator=generator).bfloat16().double()
    wanted = torch.autograd.grad((truth * weights).sum(), exact)
    found = attend_segments(*halves, pack.segments, None)
    for gradient, true in zip(torch.autograd.grad((found * weights).sum(), halves), wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.double() - true).norm() < 3e-3 * true.norm()  # rounded once; summed in bfloat16, 4e-3


def test_autocast_computes_in_its_precision_as_plain_attention_does():
    pack = Layout(SEGMENTS["a pair"])
    query, key, value = inputs = [torch.randn(1, heads, pack.tokens, 8, requires_grad=True) for heads in (4, 2, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_segments(query, key, value.bfloat16(), pack.segments, None)  # values skip rotary positions
        expected = F.scaled_dot_product_attention(query, key, value, dense_mask(pack, None), enable_gqa=True)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=2e-2, rtol=2e-2)  # bf16 keeps 8 bits
    found.float().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)


@pytest.mark.parametrize(("window", "dropout", "softcap"), [(3, 0.0, None), (None, 0.5, None), (None, 0.0, 2.0)])
def test_only_what_the_kernel_does_not_know_goes_by_masks(window, dropout, softcap, monkeypatch):
    pack, calls = one_pack(), []

    def counted(*arguments):
        calls.append(arguments)
        return attend_segments(*arguments)

    monkeypatch.setattr(attention, "attend_segments", counted)
    tensors = [torch.randn(1, heads, pack.tokens, 8) for heads in (4, 2, 2)]

    def attend(**options):
        return packed_attention(nn.Module(), *tensors, no_mask(tensors[0].device), pack=pack, **options)

    attend(sliding_window=window, dropout=dropout, softcap=softcap)
    assert not calls
    attend(sliding_window=pack.tokens)  # a window that hides nothing
    attend()
    assert len(calls) == 2


def watched(sizes: list[int]) -> list[int]:
    """Return at which checks memory was given back, for resident sizes in turn; giving back frees half."""
    current, trims = {"size": sizes[0], "check": 0}, []

    def trim() -> None:
        trims.append(current["check"])
        current["size"] //= 2

    memory = IdleMemory(lambda: current["size"], trim)
    for current["check"], current["size"] in enumerate(sizes[1:]):
        memory.check()
    return trims


def test_growth_by_the_slack_gives_memory_back():
    assert watched([SLACK, 2 * SLACK, 2 * SLACK + 1]) == [1]


def test_growth_counts_from_what_giving_back_left():
    assert watched([SLACK, 3 * SLACK, 2 * SLACK, 5 * SLACK // 2, 5 * SLACK // 2 + 1]) == [0, 3]


def test_growth_counts_from_the_lowest_size_since():
    assert watched([4 * SLACK, SLACK, 2 * SLACK, 2 * SLACK + 1]) == [2]


def test_the_process_is_watched_where_there_is_glibc():
    memory = idle_memory()
    assert memory is idle_memory()
    if memory is not None:
        assert memory._resident() > 2**20
        memory._trim()
