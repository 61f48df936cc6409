"""Attention on packs against a dense mask, on both paths: by segment, and by a variable-length kernel."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ropo.training.packing.attention import CannotPackError, attend, no_mask, packed_attention, varlen_attention
from ropo.training.packing.layout import pack_batch, segment_mask
from tests.training.packing_helpers import edge_cases

WINDOWS = [None, 3]


def one_pack(case: str = "varied"):
    batch = edge_cases()[case]
    return pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])[0]


def heads(pack, count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, count, pack.tokens, 8, generator=generator, requires_grad=True)


def dense_mask(pack, window: int | None) -> torch.Tensor:
    """Write the whole mask of a pack down: the plain reading of its segments."""
    mask = torch.zeros(pack.tokens, pack.tokens, dtype=torch.bool)
    start = 0
    for segment in pack.segments:
        for query in range(segment.length):
            past = [*range(segment.prefix_start, segment.prefix_start + segment.prefix_length)]
            past += range(start, start + query + 1)
            mask[start + query, past[-window:] if window else past] = True
        start += segment.length
    return mask


@pytest.mark.parametrize("window", WINDOWS)
def test_by_segment_equals_dense(window):
    pack = one_pack()
    query, key, value = heads(pack, 4, 0), heads(pack, 2, 1), heads(pack, 2, 2)
    found, _ = packed_attention(
        nn.Module(), query, key, value, no_mask(query.device), scaling=0.3, sliding_window=window, pack=pack
    )
    expected = F.scaled_dot_product_attention(query, key, value, dense_mask(pack, window), scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def varlen_attn_by_loops(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """Do what `torch.nn.attention.varlen.varlen_attn` documents; the kernel itself needs CUDA."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.diff().max() == max_q
    assert cu_seq_k.diff().max() == max_k
    assert enable_gqa
    rows = []
    for index in range(len(cu_seq_q) - 1):
        queries = query[cu_seq_q[index] : cu_seq_q[index + 1]].transpose(0, 1)
        keys, values = (t[cu_seq_k[index] : cu_seq_k[index + 1]].transpose(0, 1) for t in (key, value))
        place = torch.arange(queries.shape[1])[:, None] + keys.shape[1] - queries.shape[1]  # aligned to the last key
        distance = place - torch.arange(keys.shape[1])
        mask = distance >= -window_size[1]
        if window_size[0] >= 0:
            mask &= distance <= window_size[0]
        rows.append(
            F.scaled_dot_product_attention(queries[None], keys[None], values[None], mask, scale=scale, enable_gqa=True)
        )
    return torch.cat(rows, dim=2)[0].transpose(0, 1)


@pytest.mark.parametrize("window", WINDOWS)
def test_variable_length_layout_equals_by_segment(window, monkeypatch):
    module = types.SimpleNamespace(varlen_attn=varlen_attn_by_loops)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    pack = one_pack("identical prompts")
    query, key, value = heads(pack, 4, 0), heads(pack, 2, 1), heads(pack, 2, 2)
    found = varlen_attention(query, key, value, pack, 0.3, window)
    expected, _ = packed_attention(
        nn.Module(), query, key, value, no_mask(query.device), scaling=0.3, sliding_window=window, pack=pack
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", WINDOWS)
def test_variable_length_kernel_equals_by_segment(window):
    batch = {name: tensor.cuda() for name, tensor in edge_cases()["varied"].items()}
    (pack,) = pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    query, key, value = (
        torch.randn(1, count, pack.tokens, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for count in (4, 2, 2)
    )
    call = {"scaling": 0.1, "sliding_window": window, "pack": pack}
    found, _ = packed_attention(nn.Module(), query, key, value, no_mask(query.device), **call)
    floats = [tensor.float() for tensor in (query, key, value)]
    expected, _ = packed_attention(nn.Module(), *floats, no_mask(query.device), **call)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)  # bf16 keeps 8 bits


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
