"""Without gradients small matrices are built once, and nothing is used after a parameter has changed."""

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict

from ropo import RopoConfig
from ropo.adapter import parameters as parameters_module
from tests.tiny.adapted import logits, tiny_llama

pytestmark = pytest.mark.usefixtures("way")
with_blocks = pytest.mark.parametrize("way", ["blocks"], indirect=True)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return get_peft_model(tiny_llama(), RopoConfig(init_weights=False)).eval()


@pytest.fixture
def builds(monkeypatch) -> list[int]:
    count = [0]
    build = parameters_module.rotation_of

    def counting(*args):
        count[0] += 1
        return build(*args)

    monkeypatch.setattr(parameters_module, "rotation_of", counting)
    return count


def first_angles(model) -> torch.nn.Parameter:
    return next(p for name, p in model.named_parameters() if name.endswith("default.givens"))


@with_blocks
def test_blocks_are_built_once_for_many_passes(model, builds) -> None:
    outputs = [logits(model) for _ in range(3)]
    assert builds[0] == 4
    assert torch.equal(outputs[0], outputs[2])


def step(model) -> None:
    optimizer = torch.optim.SGD([first_angles(model)], lr=1.0)
    first_angles(model).grad = torch.ones_like(first_angles(model))
    optimizer.step()


def load(model) -> None:
    state = {
        name.replace(".default", ""): torch.ones_like(p) for name, p in model.named_parameters() if "ropo_" in name
    }
    set_peft_model_state_dict(model, state)


def new_adapter(model) -> None:
    model.add_adapter("other", RopoConfig(init_weights=False))
    model.set_adapter("other")


CHANGES = {
    "optimizer step": step,
    "state dict": load,
    "other adapter": new_adapter,
    "in place through data": lambda model: first_angles(model).data.add_(1.0),
    "one element through data": lambda model: first_angles(model).data[0, 3:4].add_(1.0),
    "data replaced": lambda model: setattr(first_angles(model), "data", first_angles(model).data + 1.0),
    "shared memory": lambda model: first_angles(model).detach().numpy().__iadd__(1.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_no_change_goes_unseen(model, change) -> None:
    before = logits(model)
    change(model)
    after = logits(model)
    assert not torch.equal(after, before)
    for module in model.modules():
        if isinstance(module, parameters_module.RopoParameters):
            module._cached = None
    assert torch.equal(logits(model), after)


@with_blocks
def test_moves_rebuild(model, builds) -> None:
    logits(model)
    model.double()
    assert logits(model).dtype == torch.float64
    assert builds[0] == 8
