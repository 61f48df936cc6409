"""Attention on packs against a dense mask, on both paths: by segment, and by a variable-length kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ropo.lm.packing import attention
from ropo.lm.packing.attention import CannotPackError, attend, no_mask, packed_attention
from ropo.lm.packing.layout import segment_mask
from tests.training.packing_helpers import dense_mask, one_pack

WINDOWS = [None, 3]


def heads(pack, count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, count, pack.tokens, 8, generator=generator, requires_grad=True)


@pytest.mark.parametrize("window", WINDOWS)
def test_by_segment_equals_dense(window):
    pack = one_pack()
    query, key, value = heads(pack, 4, 0), heads(pack, 2, 1), heads(pack, 2, 2)
    found, _ = packed_attention(
        nn.Module(), query, key, value, no_mask(query.device), scaling=0.3, sliding_window=window, pack=pack
    )
    expected = F.scaled_dot_product_attention(query, key, value, dense_mask(pack, window), scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def flash_by_loops(query, key, value, query_ends, key_ends, most_queries, most_keys, dropout, causal, *rest, **options):
    """Do what FlashAttention documents; the kernel itself needs CUDA.

    It has grouped keys without being told, and a window of (-1, 0) is what `causal` says.
    """
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert query_ends.diff().max() == most_queries
    assert key_ends.diff().max() == most_keys
    assert dropout == 0.0
    assert rest == (False,)
    left, right = options.pop("window_size_left"), options.pop("window_size_right")
    assert causal == (left < 0)
    rows = []
    for index in range(len(query_ends) - 1):
        queries = query[query_ends[index] : query_ends[index + 1]].transpose(0, 1)
        keys, values = (t[key_ends[index] : key_ends[index + 1]].transpose(0, 1) for t in (key, value))
        place = torch.arange(queries.shape[1])[:, None] + keys.shape[1] - queries.shape[1]  # aligned to the last key
        distance = place - torch.arange(keys.shape[1])
        mask = distance >= -right
        if left >= 0:
            mask &= distance <= left
        rows.append(
            F.scaled_dot_product_attention(queries[None], keys[None], values[None], mask, enable_gqa=True, **options)
        )
    return (torch.cat(rows, dim=2)[0].transpose(0, 1),)


@pytest.fixture
def kernel_on_cpu(monkeypatch):
    """Let a CPU pass for a GPU whose kernel does what it documents."""
    attention._varlen_works.cache_clear()
    monkeypatch.setattr(attention, "_flash_attention", flash_by_loops)
    monkeypatch.setattr(attention, "_has_varlen_kernel", lambda device: True)
    yield
    attention._varlen_works.cache_clear()


@pytest.mark.parametrize("window", WINDOWS)
def test_variable_length_layout_equals_by_segment(window, monkeypatch):
    monkeypatch.setattr(attention, "_flash_attention", flash_by_loops)
    pack = one_pack("identical prompts")
    query, key, value = heads(pack, 4, 0), heads(pack, 2, 1), heads(pack, 2, 2)
    found = attention.varlen_attention(query, key, value, pack.gathered_keys, 0.3, window)
    expected, _ = packed_attention(
        nn.Module(), query, key, value, no_mask(query.device), scaling=0.3, sliding_window=window, pack=pack
    )
    torch.testing.assert_close(found, expected)


def test_the_operator_takes_what_it_is_given():
    """Its shapes alone, on the meta device: what no loop can show is that this PyTorch has these arguments."""
    pack = one_pack()
    keys = pack.gathered_keys
    query, key, value = (torch.empty(1, n, pack.tokens, 64, device="meta", dtype=torch.bfloat16) for n in (4, 2, 2))
    moved = type(keys)(*(t.to("meta") for t in (keys.index, keys.query_ends, keys.key_ends)), *(9, 9))
    leaves = [each.requires_grad_() for each in (query, key, value)]
    output = attention.varlen_attention(*leaves, moved, 0.3, 3)
    assert output.shape == (1, pack.tokens, 4, 64)
    grads = torch.autograd.grad(output, leaves, torch.empty_like(output))
    assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]


def half_call(pack, window=None, dtype=torch.bfloat16, width=8):
    generator = torch.Generator().manual_seed(0)
    qkv = (torch.randn(1, count, pack.tokens, width, generator=generator).to(dtype) for count in (4, 2, 2))
    return packed_attention(
        nn.Module(), *qkv, no_mask(torch.device("cpu")), scaling=0.3, sliding_window=window, pack=pack
    )[0]


@pytest.mark.parametrize("window", WINDOWS)
def test_half_precision_goes_to_the_kernel_and_equals_float32(window, kernel_on_cpu):
    pack = one_pack()
    calls = attention._varlen_works.cache_info().misses
    found = half_call(pack, window)
    assert found.dtype == torch.bfloat16
    assert attention._varlen_works.cache_info().misses == calls + 1
    assert attention._varlen_works(torch.device("cpu"), torch.bfloat16, (4, 2, 8), window)
    torch.testing.assert_close(found.float(), half_call(pack, window, torch.float32), atol=2e-2, rtol=2e-2)


def test_under_autocast_attention_is_half_precision_whatever_comes_in(kernel_on_cpu):
    """Rotary positions make queries and keys float32 where weights are, and values stay half."""
    pack = one_pack()
    with torch.autocast("cpu", torch.bfloat16):
        found = half_call(pack, dtype=torch.float32)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), half_call(pack, dtype=torch.float32), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("fault", ["first key", "no gradient of keys", "raises"])
def test_a_kernel_that_is_wrong_is_not_used(fault, kernel_on_cpu, monkeypatch):
    def wrong(query, key, value, query_ends, key_ends, *rest, **options):
        if fault == "raises":
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
        if fault == "no gradient of keys":
            return flash_by_loops(query, key.detach() + 0 * key, value, query_ends, key_ends, *rest, **options)
        return flash_by_loops(query, key.roll(1, 0), value, query_ends, key_ends, *rest, **options)

    monkeypatch.setattr(attention, "_flash_attention", wrong)
    pack = one_pack()
    with pytest.warns(UserWarning, match="attending segment by segment is slower: (it is off by|RuntimeError: Flash)"):
        found = half_call(pack)
    torch.testing.assert_close(found.float(), half_call(pack, dtype=torch.float32), atol=2e-2, rtol=2e-2)


def test_a_soft_cap_bounds_the_scores():
    query, key, value = (torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(s)) * 4 for s in range(3))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    scores = 2.0 * torch.tanh(query @ key.mT * 0.5 / 2.0)
    expected = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value
    torch.testing.assert_close(attend(query, key, value, None, 0.0, 0.5, 2.0), expected)
    loose = attend(query, key, value, mask, 0.0, 0.5, 1e4)
    torch.testing.assert_close(loose, attend(query, key, value, mask, 0.0, 0.5, None), atol=1e-4, rtol=1e-4)


def test_masks_are_built_once_a_pack():
    pack = one_pack()
    segment = next(segment for segment in pack.segments if segment.prefix_length)
    mask = pack.mask(segment, None)
    assert mask is pack.mask(segment, None)
    assert torch.equal(mask, segment_mask(segment, None, "cpu"))


def test_a_model_that_drops_the_pack_is_refused():
    tensor = torch.zeros(1, 2, 3, 8)
    with pytest.raises(CannotPackError, match="keyword arguments"):
        packed_attention(nn.Module(), tensor, tensor, tensor, no_mask(tensor.device))


def test_fewer_queries_than_keys_are_the_last_ones():
    """In generation one query meets the whole cache."""
    query, key, value = (torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(s)) for s in range(3))
    whole = attend(query, key, value, None, 0.0, 0.5, 2.0)
    torch.testing.assert_close(attend(query[:, :, -1:], key, value, None, 0.0, 0.5, 2.0), whole[:, :, -1:])
