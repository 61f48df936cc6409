"""What the method promises: angles between neurons do not change, after training either."""

import pytest
import torch
from peft import get_peft_model

from ropo import RopoConfig
from ropo.adapter import RopoLinear
from ropo.diagnostics import hyperspherical_energy
from tests.tiny.adapted import layers, tiny_llama, tiny_qwen2, tokens


def train(model, steps: int, learning_rate: float) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    target = torch.randn(2, 11, 64, generator=torch.Generator().manual_seed(3), dtype=next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(input_ids=tokens()).logits * target).mean().backward()
        optimizer.step()


def orthogonality_error(layer: RopoLinear, dtype: torch.dtype) -> float:
    """Of the map that is applied in training, column by column; not of a dense copy."""
    identity = torch.eye(layer.in_features, dtype=dtype)
    with torch.no_grad():
        rotation, _ = layer.ropo_parameters["default"]()
        applied = rotation.apply(identity).double()
    return (applied.T @ applied - torch.eye(layer.in_features, dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize(
    ("dtype", "steps", "learning_rate", "bound"),
    [
        (torch.float32, 200, 1e-2, 1e-6),
        (torch.float64, 200, 1e-2, 1e-13),
        pytest.param(torch.float32, 2000, 5e-2, 1e-6, marks=pytest.mark.slow),
    ],
)
def test_rotation_stays_orthogonal_through_training(dtype, steps, learning_rate, bound, way) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(dtype=dtype), RopoConfig()).to(dtype)
    train(model, steps, learning_rate)
    for layer in layers(model):
        moved = layer.ropo_parameters["default"].rotation().to_dense(torch.float64)
        assert (moved - torch.eye(layer.in_features, dtype=torch.float64)).norm() > 0.5, "it did not move"
        assert orthogonality_error(layer, dtype) <= bound


def test_hyperspherical_energy_does_not_change_and_full_training_changes_it() -> None:
    torch.manual_seed(0)
    before = [hyperspherical_energy(layer.get_base_layer().weight) for layer in layers(adapted())]
    model = adapted()
    train(model, 200, 1e-2)
    model.merge_adapter()
    for index, layer in enumerate(layers(model)):
        after = hyperspherical_energy(layer.get_base_layer().weight)
        assert abs(after - before[index]) / before[index] < 1e-5

    full = tiny_llama().requires_grad_(True)
    train(full, 200, 1e-2)
    after = hyperspherical_energy(full.model.layers[0].self_attn.q_proj.weight)
    assert abs(after - before[0]) / before[0] > 1e-5, "the test could not have failed"


def adapted():
    return get_peft_model(tiny_llama(), RopoConfig())


def test_magnitudes_stay_positive_whatever_the_optimizer_does() -> None:
    model = get_peft_model(tiny_llama(), RopoConfig())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for sign in (1, -1) * 20:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, float(sign if sign > 0 else 3))
        optimizer.step()
    for layer in layers(model):
        scale = layer.ropo_parameters["default"].scale()
        assert scale.min() < 0.1, "they did not move"
        assert scale.min() > 0


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
def test_gradients_equal_those_of_an_explicit_weight(make) -> None:
    """Against autograd through diag(exp s) weight R^T with a dense R, bias and all."""
    torch.manual_seed(0)
    layer = layers(get_peft_model(make().double(), RopoConfig(init_weights=False)).double())[0]
    parameters = layer.ropo_parameters["default"]
    x = torch.randn(3, 5, layer.in_features, dtype=torch.float64, requires_grad=True)
    tensors = [x, parameters.givens, parameters.reflections, parameters.log_magnitude]
    weights = torch.randn(3, 5, layer.out_features, dtype=torch.float64)

    from ropo.ops import ropo_rotation

    base = layer.get_base_layer()
    dense = ropo_rotation(layer.in_features, parameters.givens, parameters.reflections)
    weight = parameters.log_magnitude.exp().unsqueeze(1) * dense.apply_transpose(base.weight)
    explicit = torch.nn.functional.linear(x, weight, base.bias)
    ours = layer(x)
    torch.testing.assert_close(ours, explicit, atol=1e-12, rtol=0)
    for got, expected in zip(
        torch.autograd.grad((ours * weights).sum(), tensors),
        torch.autograd.grad((explicit * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)
