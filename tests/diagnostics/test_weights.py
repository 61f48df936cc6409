from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ropo.core.errors import UserError
from ropo.diagnostics import hyperspherical_energy
from ropo.diagnostics import weights as weights_module
from ropo.diagnostics.layers import LayerPair, pair_layers
from ropo.diagnostics.weights import measure_change, measure_layer, measure_weight
from tests.diagnostics.adapted import CONFIGS, adapted


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_measures_of_one_weight() -> None:
    weight = random(20, 6)
    found = measure_weight(torch.cat([weight, torch.zeros(2, 6)]))
    assert (found.neurons, found.inputs, found.zero_neurons) == (22, 6, 2)
    assert found.energy == hyperspherical_energy(weight)
    assert found.energy_standard_error is None
    assert found.cosines is not None
    assert found.cosines.pairs == 190


def test_large_layers_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, reference = random(60, 6), random(60, 6, seed=1)
    exact = measure_weight(weight), measure_change(weight, reference)
    monkeypatch.setattr(weights_module, "EXACT_NEURONS", 59)
    monkeypatch.setattr(weights_module, "SAMPLED_PAIRS", 50_000)
    sampled = measure_weight(weight), measure_change(weight, reference)
    assert sampled[0].energy_standard_error is not None
    assert abs(sampled[0].energy - exact[0].energy) < 4 * sampled[0].energy_standard_error
    assert sampled[0].energy != exact[0].energy
    assert sampled[1].cosines.pairs == 50_000
    assert sampled[1].cosines.rms == pytest.approx(exact[1].cosines.rms, rel=0.05)
    # Common pairs cancel: a rotation changes the sampled energy by rounding only.
    rotation = torch.linalg.qr(random(6, 6, seed=2))[0]
    assert abs(measure_change(weight @ rotation, weight).energy) < 1e-6


def test_rotated_and_stretched_weight() -> None:
    weight = random(30, 8).double()
    rotation = torch.linalg.qr(random(8, 8, seed=2).double())[0]
    found = measure_change(2.0 * weight @ rotation, weight)
    assert abs(found.energy) < 1e-12
    assert found.cosines.largest < 1e-14
    assert found.neurons.magnitude_mean == pytest.approx(2.0)
    assert found.neurons.turn_mean > 10.0


def test_two_neurons_made_equal() -> None:
    weight = random(30, 8)
    collapsed = weight.clone()
    collapsed[7] = weight[3]
    found = measure_change(collapsed, weight)
    assert found.cosines.collapsed == 1
    assert found.energy > 100
    assert math.isfinite(found.energy)


@pytest.mark.parametrize("neurons", [0, 1])
def test_fewer_than_two_neurons(neurons: int) -> None:
    weight = random(neurons, 4)
    found, change = measure_weight(weight), measure_change(weight, weight)
    assert (found.energy, found.cosines) == (0.0, None)
    assert (change.energy, change.cosines) == (None, None)


def test_all_zero_weight() -> None:
    found = measure_weight(torch.zeros(3, 4))
    assert (found.zero_neurons, found.energy, found.effective_rank, found.isotropy) == (3, 0.0, None, None)


def test_neurons_that_are_zero_in_either_are_left_out_of_the_change() -> None:
    weight, reference = random(10, 4), random(10, 4, seed=1)
    expected = measure_change(weight[2:], reference[2:])
    weight[0], reference[1] = 0.0, 0.0
    assert measure_change(weight, reference) == expected


def test_refuses_nan_by_layer_name_and_other_shapes() -> None:
    broken = nn.Linear(4, 3)
    broken.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match=r"model\.q_proj: must be finite, has 1 NaN"):
        measure_layer(LayerPair("model.q_proj", broken, None))
    with pytest.raises(UserError, match=r"q of the reference: must be finite"):
        measure_layer(LayerPair("q", nn.Linear(4, 3), broken))
    with pytest.raises(UserError, match=r"shape \(3, 4\), got \(3, 5\)"):
        measure_change(torch.ones(3, 4), torch.ones(3, 5))


def test_ropo_keeps_every_cosine_and_lora_does_not() -> None:
    layers = {name: [measure_layer(pair) for pair in pair_layers(adapted(CONFIGS[name]()), None)] for name in CONFIGS}
    assert all(len(measured) == 4 for measured in layers.values())
    for layer in layers["ropo"]:
        assert abs(layer.change.energy) < 1e-6  # float32 weights
        assert layer.change.cosines.largest < 1e-5
        assert layer.change.neurons.turn_mean > 5.0
        assert 0.8 < layer.change.neurons.magnitude_mean < 1.3
    assert all(layer.change.cosines.largest > 1e-3 for layer in layers["lora"])


def test_rotations_are_measured_by_factor() -> None:
    [first, *_] = (measure_layer(pair) for pair in pair_layers(adapted(CONFIGS["ropo"]()), None))
    [rotation] = first.rotations
    assert rotation.adapter == "default"
    assert [name for name, _ in rotation.factors] == ["GivensTree reverse", "GivensTree forward", "Reflections"]
    for size in (rotation.whole, *(size for _, size in rotation.factors)):
        assert 0.1 < size.distance < 2.0
        assert size.orthogonality_error < 1e-13
        assert 1.0 < size.largest_angle <= 180.0
