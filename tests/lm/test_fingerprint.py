"""Fingerprints of weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ropo.lm.fingerprint import fingerprint_weights


def model(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 4), nn.Linear(4, 2))


def test_equal_weights_have_equal_fingerprints():
    assert fingerprint_weights(model()) == fingerprint_weights(copy.deepcopy(model()))


def test_every_difference_shows():
    changed = model()
    with torch.no_grad():
        changed[1].bias[1] += 1e-7
    renamed = nn.Sequential(*model(), nn.Identity())
    renamed = nn.ModuleDict({"0": renamed[0], "2": renamed[1]})
    half, same_bits = model().bfloat16(), model().half()
    for found, expected in zip(same_bits.parameters(), half.parameters(), strict=True):
        found.data = expected.data.view(torch.float16)
    others = [same_bits, changed, renamed, model(5), half, model().double()]
    assert len({fingerprint_weights(each) for each in [model(), *others]}) == 7


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao")
def test_a_quantised_weight_is_known_by_what_it_wraps():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

    def quantised(bit: float) -> str:
        layer = nn.Linear(64, 8, bias=False)
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)
        layer.weight.data[0, 0] = bit
        quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())
        return fingerprint_weights(layer)

    assert quantised(0.0) == quantised(0.0)
    assert quantised(0.0) != quantised(0.5)
