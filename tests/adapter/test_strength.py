"""An adapter at strength t: the same planes turned by t times their angles, neurons stretched by exp(t s)."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from scipy.linalg import expm, logm

from ropo import RopoConfig
from ropo.adapter import RopoLinear
from ropo.adapter.parameters import RopoParameters
from ropo.adapter.strength import partner
from ropo.core.errors import UserError
from ropo.diagnostics import hyperspherical_energy
from ropo.ops import GivensTree, Reflections, ropo_rotation
from ropo.ops.reference import tree_levels
from tests.tiny.adapted import logits, tiny_gpt2, tiny_llama, tiny_qwen2, tokens

STRENGTHS = (0.0, 0.2, 0.5, 1.0, 1.3, 2.0)


def adapted(make=tiny_llama, **options):
    torch.manual_seed(1)
    model = get_peft_model(make(), RopoConfig(init_weights=False, **options)).eval()
    return model


def layers(model) -> list[RopoLinear]:
    found = [module for module in model.modules() if isinstance(module, RopoLinear)]
    assert found
    return found


def part_of_the_way(rotation: np.ndarray, strength: float) -> np.ndarray:
    """The t-th power of a rotation by SciPy: exp(t log R)."""
    logarithm = logm(rotation)
    assert np.abs(np.imag(logarithm)).max() < 1e-12
    return expm(strength * np.real(logarithm))


def random_pairs(pairs: int, dim: int) -> torch.Tensor:
    return torch.randn(2 * pairs, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(dim))


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("dim", [2, 3, 5, 8, 13])
def test_a_pair_of_reflections_turns_by_a_power_of_its_rotation(dim, strength) -> None:
    first, second = random_pairs(3, dim)[:3], random_pairs(3, dim)[3:]
    cosines = torch.nn.functional.cosine_similarity(first, second)
    turned = partner(first, second, strength)
    for one, other, ours in zip(first, second, turned, strict=True):
        whole = Reflections(torch.stack([one, other])).to_dense().numpy()
        found = Reflections(torch.stack([one, ours])).to_dense().numpy()
        np.testing.assert_allclose(found, part_of_the_way(whole, strength), atol=1e-12, rtol=0)
    assert cosines.abs().max() > 0.1


def test_pairs_on_both_sides_of_a_right_angle_were_seen() -> None:
    """Of H(u) = H(-u) the nearer vector is turned to, so both signs have to have been tried."""
    cosines = [torch.nn.functional.cosine_similarity(*random_pairs(3, dim).chunk(2)) for dim in (2, 3, 5, 8, 13)]
    assert {bool(each > 0) for each in torch.cat(cosines)} == {True, False}


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-4, math.pi - 1e-4, math.pi - 1e-8, math.pi])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_parallel_and_nearly_parallel_vectors(angle, strength) -> None:
    """H(u) H(u) = H(u) H(-u) = I has no plane; near it, the plane's angle is the small one."""
    across = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    one = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    other = 0.5 * math.cos(angle) * one + 3.0 * math.sin(angle) * across
    other *= 3.0 / other.norm()
    small = math.atan2(float(other[1]), abs(float(other[0]))) * math.copysign(1.0, float(other[0]))
    turned = partner(one[None], other[None], strength)
    rotation = Reflections(torch.cat([one[None], turned])).to_dense()
    turn = 2 * strength * small
    expected = torch.eye(3, dtype=torch.float64)
    entries = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    expected[:2, :2] = torch.tensor(entries, dtype=torch.float64)
    torch.testing.assert_close(rotation, expected, atol=1e-14, rtol=0)  # some ten roundings
    assert turned.norm().item() == pytest.approx(3.0)


def test_orthogonal_vectors_turn_by_half_a_turn_times_the_strength() -> None:
    one, other = torch.eye(4, dtype=torch.float64)[:2].unsqueeze(1)
    half = Reflections(torch.cat([one, partner(one, other, 0.5)])).to_dense()
    torch.testing.assert_close(half @ half, Reflections(torch.cat([one, other])).to_dense(), atol=1e-15, rtol=0)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("dim", "givens"), [(2, "bidirectional"), (7, "bidirectional"), (8, "forward"), (13, "none")])
def test_the_rotation_is_the_product_of_the_powers_of_its_stages(dim, givens, strength) -> None:
    """Each level of each tree and each pair of reflections is a dense matrix, whose power is SciPy's."""
    torch.manual_seed(dim)
    config = RopoConfig(givens=givens, reflections=4, init_weights=False, strength=strength)
    parameters = RopoParameters(config, dim, 3).double()
    stages = []
    if parameters.givens is not None:
        torch.nn.init.normal_(parameters.givens, std=0.8)
        assert parameters.givens.abs().max() < math.pi
        angles = parameters.givens.detach()
        stages = [*tree_stages(angles, "reverse"), *tree_stages(angles, "forward")]
    stages += [Reflections(pair).to_dense() for pair in parameters.reflections.detach().split(2)]
    expected = np.eye(dim)
    for stage in stages:
        expected = expected @ part_of_the_way(stage.numpy(), strength)
    found = parameters.rotation().to_dense(torch.float64)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(parameters.scale(), parameters.log_magnitude.exp() ** strength, atol=1e-12, rtol=0)
    assert len(stages) == {"bidirectional": 2, "forward": 1, "none": 0}[givens] * len(tree_levels(dim)) + 2


def tree_stages(angles: torch.Tensor, order) -> list[torch.Tensor]:
    """Dense matrices of a tree's levels, in the order of the product; none where there is no such tree."""
    if order == "reverse" and len(angles) == 1:
        return []
    of_tree = angles[0 if order == "forward" else 1]
    stages, start = [], 0
    for _, planes in tree_levels(len(of_tree) + 1):
        alone = torch.zeros_like(of_tree)
        alone[start : start + planes] = of_tree[start : start + planes]
        stages.append(GivensTree(alone, order).to_dense())
        start += planes
    return stages[::-1] if order == "forward" else stages


def test_angles_beyond_half_a_turn_are_scaled_as_they_are() -> None:
    """A Givens angle is what training made it, whereas SciPy's logarithm would go the shorter way round."""
    parameters = RopoParameters(RopoConfig(reflections=0, givens="forward", strength=0.5), 2, 2).double()
    torch.nn.init.constant_(parameters.givens, 4.0)
    expected = torch.tensor([[math.cos(2.0), -math.sin(2.0)], [math.sin(2.0), math.cos(2.0)]], dtype=torch.float64)
    torch.testing.assert_close(parameters.rotation().to_dense(torch.float64), expected, atol=1e-15, rtol=0)


def test_at_1_the_parameters_themselves_act_bit_by_bit(way) -> None:
    model = adapted()
    before = logits(model)
    for strength in (0.3, 0.0, 1):
        model.set_strength(strength)
        assert torch.equal(logits(model), before) == (strength == 1)
    for layer in layers(model):
        parameters = layer.ropo_parameters["default"]
        assert parameters.pair[0] is parameters.givens
        assert parameters.pair[1] is parameters.reflections
        assert parameters.log_scale is parameters.log_magnitude
        plain = ropo_rotation(layer.in_features, parameters.givens.double(), parameters.reflections.double())
        assert torch.equal(parameters.rotation().to_dense(torch.float64), plain.to_dense(torch.float64))


def test_at_0_the_base_model_answers_bit_by_bit(way) -> None:
    model = adapted()
    changed = logits(model)
    with model.disable_adapter():
        base = logits(model)
    model.set_strength(0)
    assert torch.equal(logits(model), base)
    assert not torch.equal(base, changed)
    weights = [layer.get_base_layer().weight.clone() for layer in layers(model)]
    model.merge_adapter()
    for layer, weight in zip(layers(model), weights, strict=True):
        assert torch.equal(layer.get_base_layer().weight, weight)
    model.unmerge_adapter()
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2, tiny_gpt2])
def test_merged_weights_answer_as_the_adapter_does(make, strength, way) -> None:
    model = adapted(make, reflections=4)
    whole = logits(model)
    model.set_strength(strength)
    unmerged = logits(model)
    merged = logits(deepcopy(model).merge_and_unload())
    assert (merged - unmerged).norm() / unmerged.norm() < 1e-4
    assert torch.equal(unmerged, whole) == (strength == 1)
    model.merge_adapter()
    model.unmerge_adapter()
    assert (logits(model) - unmerged).norm() / unmerged.norm() < 1e-4


def test_gradients_being_recorded_change_nothing(way) -> None:
    """Rotations are then built together, instead of each from its layer's cache; the parameters get no gradient."""
    model = adapted()
    model.set_strength(0.6)
    found = model(input_ids=tokens()).logits
    torch.testing.assert_close(found, logits(model), atol=1e-6, rtol=1e-5)
    assert not found.requires_grad
    embeddings = model.get_input_embeddings()(tokens()).detach().requires_grad_()
    model(inputs_embeds=embeddings).logits.sum().backward()
    assert embeddings.grad.abs().max() > 0
    assert all(part.grad is None for part in model.parameters())


def test_what_is_cached_follows_the_strength_and_the_parameters(way) -> None:
    model, fresh = adapted(), adapted()
    for strength in (1.0, 0.4, 0.8):
        model.set_strength(strength)
        logits(model)
        for layer in layers(model):
            layer.ropo_parameters["default"].givens.data += 0.1
    for layer in layers(fresh):
        layer.ropo_parameters["default"].givens.data += 0.1
        layer.ropo_parameters["default"].givens.data += 0.1
        layer.ropo_parameters["default"].givens.data += 0.1
    fresh.set_strength(0.8)
    assert torch.equal(logits(model), logits(fresh))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_energy_is_the_same_at_every_strength(strength) -> None:
    model = adapted().double()
    before = [hyperspherical_energy(layer.get_base_layer().weight) for layer in layers(model)]
    weights = [layer.get_base_layer().weight.clone() for layer in layers(model)]
    model.set_strength(strength)
    model.merge_adapter()
    for layer, energy, weight in zip(layers(model), before, weights, strict=True):
        merged = layer.get_base_layer().weight
        assert torch.equal(merged, weight) == (strength == 0)
        assert abs(hyperspherical_energy(merged) - energy) / energy < 1e-12


def test_it_is_saved_and_loaded_and_can_be_turned_back(tmp_path) -> None:
    model = adapted()
    trained = logits(model)
    model.save_pretrained(tmp_path / "trained")
    assert "strength" not in json.loads((tmp_path / "trained" / "adapter_config.json").read_text())
    model.base_model.set_strength(0.25)
    quarter = logits(model)
    model.save_pretrained(tmp_path / "quarter")
    assert json.loads((tmp_path / "quarter" / "adapter_config.json").read_text())["strength"] == 0.25
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("trained", "quarter")]
    assert files[0] == files[1]  # the parameters stay those of strength 1

    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "quarter").eval()
    assert torch.equal(logits(loaded), quarter)
    loaded.set_strength(1)
    assert torch.equal(logits(loaded), trained)
    plain = tiny_llama().eval()
    plain.load_adapter(str(tmp_path / "quarter"))
    assert torch.equal(logits(plain), quarter)


def test_each_adapter_has_its_own(way) -> None:
    """Also where both were made from one configuration, as TRL makes its reference."""
    model = adapted()
    model.add_adapter("other", model.peft_config["default"])
    first = logits(model)
    model.set_strength(0.5)
    half = logits(model)
    model.set_adapter("other")
    whole = logits(model)
    assert model.peft_config["other"].strength == 1
    model.set_strength(0, "other")
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(model))
        base = logits(model)
    assert torch.equal(logits(model), base)
    assert not torch.equal(whole, base)
    model.set_adapter("default")
    assert torch.equal(logits(model), half)
    model.set_strength(1)
    assert torch.equal(logits(model), first)


def test_training_needs_strength_1() -> None:
    model = adapted()
    model.set_strength(0.5)
    model.train()
    for strength in (0.5, 0.0):
        model.set_strength(strength)
        with pytest.raises(UserError, match=r"strength: adapters are trained at strength 1, got 0(\.5)?; call"):
            model(input_ids=tokens())
    with torch.no_grad():
        model(input_ids=tokens())
    model.set_strength(1)
    model(input_ids=tokens()).logits.sum().backward()
    assert any(part.grad is not None for part in model.parameters())


def test_one_adapter_trains_beside_a_frozen_one_at_another_strength() -> None:
    model = adapted()
    model.set_strength(0.5)
    model.add_adapter("new", RopoConfig())
    model.base_model.set_adapter(["default", "new"])
    for name, part in model.named_parameters():
        part.requires_grad_(".new." in name)
    model.train()
    model(input_ids=tokens()).logits.sum().backward()
    trained = {name for name, part in model.named_parameters() if part.grad is not None}
    assert trained
    assert all(".new." in name for name in trained)


@pytest.mark.parametrize("value", [-0.1, 2.1, math.nan, math.inf, -math.inf])
def test_what_is_no_strength(value) -> None:
    rule = r"^strength: must be a number from 0 \(the base model\) to 2, got "
    with pytest.raises(UserError, match=rule):
        RopoConfig(strength=value)
    model = adapted()
    before = logits(model)
    with pytest.raises(UserError, match=rule):
        model.set_strength(value)
    assert torch.equal(logits(model), before)


def test_a_merged_adapter_keeps_its_strength() -> None:
    model = adapted()
    model.merge_adapter()
    with pytest.raises(UserError, match="strength: adapter 'default' is merged into the weights"):
        model.set_strength(0.5)
    model.unmerge_adapter()
    model.set_strength(0.5)


def test_an_adapter_that_is_not_there() -> None:
    with pytest.raises(UserError, match="strength: there is no adapter 'x'; there are default"):
        adapted().set_strength(0.5, "x")


def test_modules_that_were_trained_in_full_have_no_strength() -> None:
    message = "strength: modules_to_save were trained in full and would act at any strength"
    model = get_peft_model(tiny_llama(), RopoConfig(modules_to_save=["lm_head"]))
    with pytest.raises(UserError, match=message):
        model.set_strength(0.5)
    model.set_strength(1)
    with pytest.raises(UserError, match=message):
        RopoConfig(modules_to_save=["lm_head"], strength=0.5)
