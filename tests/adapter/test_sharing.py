"""A call of the model gives all its layers their rotations together: the same numbers, never left over."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropo import RopoConfig
from ropo.adapter import RopoLinear, sharing
from ropo.adapter.parameters import RopoParameters
from ropo.ops import rotate
from tests.tiny.adapted import VOCABULARY, tiny_gpt2, tiny_llama, tiny_qwen2

pytestmark = pytest.mark.usefixtures("way")
with_blocks = pytest.mark.parametrize("way", ["blocks"], indirect=True)

TOKENS = torch.arange(14).view(2, 7) % VOCABULARY
WHOLE = {"task_type": "CAUSAL_LM"}  # PEFT calls the tuner with a task, the base model without one


def adapted(make=tiny_llama, **options) -> nn.Module:
    torch.manual_seed(1)
    return get_peft_model(make(), RopoConfig(init_weights=False, **options)).train()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: name + text)


@pytest.fixture
def group_sizes(monkeypatch) -> list[int]:
    sizes: list[int] = []
    build = rotate.build_blocks_of_layers

    def counting(dim, givens, reflections):
        sizes.append(len(givens))
        return build(dim, givens, reflections)

    monkeypatch.setattr(rotate, "build_blocks_of_layers", counting)
    return sizes


@with_blocks
@pytest.mark.parametrize("options", [{}, WHOLE], ids=["no task", "causal_lm"])
def test_all_layers_of_one_width_are_built_at_once(options, group_sizes) -> None:
    gradients(adapted(**options))
    assert group_sizes == [4]


@with_blocks
def test_widths_are_built_apart(group_sizes) -> None:
    gradients(adapted(target_modules=["q_proj", "v_proj", "down_proj"]))
    assert sorted(group_sizes) == [2, 4]


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2, tiny_gpt2])
@pytest.mark.parametrize("options", [{}, {"givens": "forward"}, {"givens": "none"}, {"reflections": 0}], ids=str)
def test_gradients_are_those_of_single_builds(make, options) -> None:
    model = adapted(make, **options).eval()  # no dropout
    shared = gradients(model)
    sharing.build_alone(model.get_base_model())
    assert_close(shared, gradients(model))


@with_blocks
def test_magnitudes_alone_need_no_blocks(group_sizes) -> None:
    assert gradients(adapted(givens="none", reflections=0))
    assert not group_sizes


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_have_the_same_gradients(reentrant, group_sizes, way) -> None:
    """Computed again in the backward pass, a layer builds its own blocks and saves what it saved before."""
    model = adapted()
    plain = gradients(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.get_base_model().model.layers[0].gradient_checkpointing
    assert_close(gradients(model), plain)
    assert group_sizes == ([4, 4] if way == "blocks" else [])


@pytest.mark.parametrize("change", ["step", "data", "load", "set_adapter"])
def test_a_changed_parameter_is_seen_by_the_next_call(change) -> None:
    model = adapted()
    model.add_adapter("other", RopoConfig(init_weights=False))
    before = gradients(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if change == "step":
        torch.optim.SGD(parameters, lr=1.0).step()
    elif change == "data":
        parameters[0].data = parameters[0].data + 0.5
    elif change == "load":
        model.load_state_dict({name: tensor + 0.1 for name, tensor in model.state_dict().items()})
    else:
        model.set_adapter("other")
    shared = gradients(model)
    sharing.build_alone(model.get_base_model())
    assert_close(shared, gradients(model))
    assert change == "set_adapter" or any(not torch.allclose(shared[name], before[name]) for name in shared)


def left_over(model: nn.Module) -> list[RopoParameters]:
    found = [module for module in model.modules() if isinstance(module, RopoParameters)]
    assert len(found) >= 4
    return [module for module in found if module.shared is not None]


def test_nothing_is_left_over(group_sizes, way) -> None:
    model = adapted()
    gradients(model)
    assert not left_over(model)
    inner = model.get_base_model().model

    def fail(*args, **kwargs):
        raise RuntimeError("stopped half way")

    inner.norm.forward = fail
    with pytest.raises(RuntimeError, match="half way"):
        model(input_ids=TOKENS)
    assert group_sizes == ([4, 4] if way == "blocks" else [])
    assert not left_over(model)


@with_blocks
def test_disabled_and_merged_adapters_build_nothing(group_sizes) -> None:
    model = adapted()
    with model.disable_adapter():
        model(input_ids=TOKENS)
    model.merge_adapter()
    model(input_ids=TOKENS)
    assert not group_sizes
    model.unmerge_adapter()
    model(input_ids=TOKENS)
    assert group_sizes == [4]


def test_two_active_adapters_are_built_together(group_sizes, way) -> None:
    model = adapted()
    model.add_adapter("other", RopoConfig(init_weights=False))
    model.base_model.set_adapter(["default", "other"])
    shared = gradients(model)
    assert group_sizes == ([8] if way == "blocks" else [])
    sharing.build_alone(model.get_base_model())
    assert_close(shared, gradients(model))


@with_blocks
def test_without_gradients_the_caches_serve(group_sizes) -> None:
    with torch.no_grad():
        adapted()(input_ids=TOKENS)
    assert not group_sizes


@with_blocks
def test_hooks_are_put_in_once_and_taken_out(group_sizes) -> None:
    model = adapted()
    model.add_adapter("other", RopoConfig(init_weights=False))
    base = model.get_base_model()
    assert len(base._forward_pre_hooks) == len(base._forward_hooks) == 2  # rotations, and bypassed layers
    assert gradients(copy.deepcopy(model))  # hooks survive copying
    assert group_sizes == [4]
    plain = model.merge_and_unload()
    assert not plain._forward_pre_hooks
    assert not plain._forward_hooks


def test_narrowed_parameters_are_widened_before_they_are_built() -> None:
    """TRL casts trainable parameters to bfloat16 on quantised bases."""
    model = adapted()
    for module in model.modules():
        if isinstance(module, RopoParameters):
            for part in module.parameters():
                part.data = part.data.bfloat16()
    model(input_ids=TOKENS)
    widths = {
        part.dtype for module in model.modules() if isinstance(module, RopoLinear) for part in module.parameters()
    }
    assert widths == {torch.float32}


@pytest.mark.parametrize("name", ["givens", "reflections", "log_magnitude"])
def test_sharded_parameters_are_left_to_their_own_layer(name, group_sizes, way, monkeypatch) -> None:
    """FSDP gathers a layer's parameters only while that layer runs; before, they are DTensors."""
    model = adapted()
    sharded = model.get_base_model().model.layers[0].self_attn.q_proj.ropo_parameters["default"]
    is_plain, forward, own = sharing._is_plain, RopoParameters.forward, []
    monkeypatch.setattr(sharing, "_is_plain", lambda part: part is not getattr(sharded, name) and is_plain(part))
    monkeypatch.setattr(RopoParameters, "forward", lambda self: own.append(self) or forward(self))
    assert gradients(model)
    assert own == [sharded]
    assert group_sizes == ([3] if way == "blocks" else [])


def test_what_counts_as_plain(tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        local = torch.ones(3)
        sharded = nn.Parameter(DTensor.from_local(local, mesh))
        is_plain = partial(map, sharing._is_plain)
        assert list(is_plain([nn.Parameter(local), sharded, sharded.data])) == [True, False, False]
        assert list(is_plain([nn.Parameter(local.to("meta")), nn.Parameter(local[:0])])) == [False, False]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("stays", [True, False])
def test_what_zero3_has_gathered_counts_only_where_it_stays(stays) -> None:
    """After an evaluation parameters may be whole that are cut before the next backward pass."""
    gathered: Any = nn.Parameter(torch.ones(3))
    gathered.ds_id, gathered.ds_persist = 0, stays
    assert sharing._is_plain(gathered) == stays
