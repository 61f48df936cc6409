"""For every PEFT method that ours overrides: what the base refuses is refused, and what it grants is granted.

CONTRIBUTING.md lists the overrides; the first test holds the list.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import HRAConfig, LoraConfig, NoMatchingPeftModuleError, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from ropo import RopoConfig
from ropo.adapter import RopoLinear, RopoModel
from ropo.core.errors import UserError
from tests.tiny.adapted import logits, relative_difference, tiny_llama

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def overridden(ours: type, base: type) -> set[str]:
    return {name for name, value in vars(ours).items() if hasattr(base, name) and callable_or_property(value)}


def callable_or_property(value: object) -> bool:
    return callable(value) or isinstance(value, property | classmethod | staticmethod)


def test_the_table_in_contributing_names_every_override() -> None:
    table = CONTRIBUTING.read_text("utf-8").split("## Overrides of PEFT")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(?:Ropo\w+)\.(\w+)`", table, flags=re.MULTILINE))
    from_python = {"__init__", "__module__", "__doc__", "__repr__", "__annotations__"}
    found = overridden(RopoModel, BaseTuner) | overridden(RopoLinear, BaseTunerLayer)
    found = {name for name in found if not (name.startswith("__") and name not in from_python)} - from_python
    # `_enable_peft_forward_hooks` is looked for by PeftModel on its tuner; the base has none
    assert found | {"_enable_peft_forward_hooks"} == listed


class Net(nn.Module):
    """A model that PEFT knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.lin0, self.lin1 = nn.Linear(10, 20), nn.Linear(20, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin1(self.lin0(x).relu())


@pytest.mark.parametrize("make", [HRAConfig, RopoConfig])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["foo"]},
        {"target_modules": "foo.*"},
        {"target_modules": ["lin0"], "exclude_modules": ["lin0"]},
        {"target_modules": "lin.*", "exclude_modules": ".*"},
    ],
    ids=str,
)
def test_targets_that_match_nothing_are_pefts_own_error(make, options) -> None:
    with pytest.raises(NoMatchingPeftModuleError) as refused:
        get_peft_model(Net(), make(**options))
    assert make is HRAConfig or isinstance(refused.value, UserError)


@pytest.mark.parametrize("make", [LoraConfig, RopoConfig])
def test_a_model_without_a_default_is_refused_in_pefts_words(make) -> None:
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(Net(), make())


def test_defaults_follow_pefts_mapping_as_it_grows(monkeypatch) -> None:
    monkeypatch.setitem(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "llama", ["o_proj"])
    adapted = get_peft_model(tiny_llama(), RopoConfig())
    assert {name.rpartition(".")[2] for name in adapted.targeted_module_names} == {"o_proj"}


@pytest.mark.parametrize("targets", [["in_proj", "out_proj"], "all-linear", ".*_proj"])
def test_what_mambas_kernels_read_is_refused_as_for_lora_and_before_anything_is_adapted(targets) -> None:
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = MambaForCausalLM(config)
    with pytest.raises(UserError, match="out_proj is read past the adapter"):
        get_peft_model(model, RopoConfig(target_modules=targets))
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    with pytest.raises(ValueError, match="'out_proj' is incompatible"):
        get_peft_model(model, LoraConfig(target_modules=targets))


@pytest.mark.parametrize("make", [LoraConfig, RopoConfig])
def test_a_second_adapter_of_that_name_is_refused(make) -> None:
    model = get_peft_model(tiny_llama(), make(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="already exists"):
        model.add_adapter("default", make(target_modules=["q_proj"]))


@pytest.mark.parametrize("make", [LoraConfig, RopoConfig])
def test_merging_what_is_merged_warns(make) -> None:
    model = get_peft_model(Net(), make(target_modules=["lin0"]))
    model.merge_adapter()
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    with pytest.raises(TypeError, match=r"list\W+(of )?str"):
        model.merge_adapter(adapter_names="default")
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("default")
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


@pytest.mark.parametrize("make", [LoraConfig, RopoConfig])
def test_merging_a_broken_adapter_is_refused_where_asked_for(make) -> None:
    model = get_peft_model(Net(), make(target_modules=["lin0"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"not finite|NaNs"):
        model.merge_and_unload(safe_merge=True)


@pytest.mark.parametrize("make", [LoraConfig, RopoConfig])
def test_a_weight_is_still_to_be_read(make) -> None:
    """T5 looks at the dtype of its layers' weights."""
    net = Net()
    weight = net.lin0.weight
    layer = get_peft_model(net, make(target_modules=["lin0"])).base_model.model.lin0
    assert layer.weight is weight
    assert layer.bias is net.lin0.get_base_layer().bias


def test_float32_stays_and_is_said_where_peft_would_narrow() -> None:
    narrow = {"autocast_adapter_dtype": False}
    with pytest.warns(UserWarning, match="autocast_adapter_dtype=False: RoPO's angles and magnitudes stay float32"):
        model = get_peft_model(Net().bfloat16(), RopoConfig(target_modules=["lin0"]), **narrow)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    get_peft_model(Net(), RopoConfig(target_modules=["lin0"]), **narrow)  # nothing to narrow: no warning


# all-linear, on a model that is adapted already


def adapted_layers(model: nn.Module, kind: type) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, kind) and ".base_layer" not in name}


def random_ropo(**options) -> RopoConfig:
    return RopoConfig(init_weights=False, **options)


def random_lora(**options) -> LoraConfig:
    return LoraConfig(init_lora_weights=False, **options)


@pytest.mark.parametrize("make", [random_lora, random_ropo])
def test_a_second_adapter_on_all_linear_layers_takes_in_those_of_the_first(make) -> None:
    model = get_peft_model(tiny_llama(), make(target_modules=["q_proj"]))
    model.add_adapter("second", make(target_modules="all-linear"))
    names = {name for name, _ in model.named_parameters() if ".second." in name}
    assert {name.split(".layers.")[1].split(".")[0] for name in names if ".q_proj." in name} == {"0", "1"}
    assert len({name.split("proj")[0] for name in names}) == 14


@pytest.mark.parametrize(("first", "second"), [(random_ropo, random_lora), (random_lora, random_ropo)])
def test_a_second_method_on_all_linear_layers_takes_in_those_of_the_first(first, second) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), first(target_modules=["q_proj"])).base_model.model
    before = logits(model)
    del model.peft_config
    inject_adapter_in_model(second(target_modules="all-linear"), model, "second")
    outer = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    assert len(adapted_layers(model, BaseTunerLayer)) == 14
    assert len(outer) == 16  # the two query projections twice
    assert relative_difference(logits(model), before) > 1e-3


def test_ropo_around_lora_is_merged_from_the_inside() -> None:
    torch.manual_seed(0)
    inside = get_peft_model(tiny_llama(), random_lora(target_modules=["q_proj"])).base_model.model
    del inside.peft_config
    with pytest.warns(UserWarning, match="second time"):
        model = get_peft_model(inside, random_ropo(target_modules=["q_proj", "k_proj"])).eval()
    expected = logits(model)
    merged = model.merge_and_unload()
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
    assert relative_difference(logits(merged), expected) < 1e-4


# weights that are read past the adapter


class Fused(nn.Module):
    """A projection that multiplies with the weights of its layers itself, as fused kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fused = torch.cat([self.q_proj.weight, self.k_proj.weight])
        return (x @ fused.T).sum(-1, keepdim=True) + self.v_proj(x)


@pytest.mark.parametrize("grad", [True, False])
def test_a_weight_read_past_its_adapter_is_refused_at_the_first_call(grad) -> None:
    model = get_peft_model(Fused(), random_ropo(target_modules=["q_proj", "v_proj"]))
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(UserError, match=r"q_proj was not called, .* by Fused"),
    ):
        model(torch.randn(2, 8))
    with model.disable_adapter():
        model(torch.randn(2, 8))
    model.merge_adapter()
    model(torch.randn(2, 8))


def test_layers_that_are_called_may_also_be_read_and_layers_that_are_not_read_need_no_call() -> None:
    class Looks(Fused):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q_proj(x.to(self.q_proj.weight.dtype)) + self.q_proj.weight.sum()

    model = get_peft_model(Looks(), random_ropo(target_modules=["q_proj", "k_proj"]))
    assert model(torch.randn(2, 8)).shape == (2, 8)
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 7))  # fails inside; the next call must not be taken for a part of this one
    assert model(torch.randn(2, 8)).shape == (2, 8)
    assert not hasattr(model.unload(), "ropo_parameters")


def test_a_part_of_a_model_may_be_read_before_it_is_called() -> None:
    """An adapted model inside another one: only what is never called is refused."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = get_peft_model(Net(), random_ropo(target_modules=["lin0"]))
            self.q_proj = nn.Linear(10, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dtype = self.q_proj.weight.dtype
            return self.inner(self.q_proj(x.to(dtype)))

    with pytest.warns(UserWarning, match="second time"):
        outer = get_peft_model(Outer(), random_ropo(target_modules=["q_proj"]))
    assert outer(torch.randn(3, 10)).shape == (3, 2)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha, self.lin = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(self.mha(x, x, x)[0])


def test_pytorchs_own_attention_is_left_out_of_all_linear_layers_and_refused_by_name() -> None:
    for exclude in (None, ["lin9"], "lin9"):
        with pytest.warns(UserWarning, match=r"mha.out_proj not adapted"):
            model = get_peft_model(Attends(), random_ropo(target_modules="all-linear", exclude_modules=exclude))
        assert model.targeted_module_names == ["lin"]
        assert model(torch.randn(1, 3, 8)).shape == (1, 3, 8)
    with pytest.raises(UserError, match=r"mha.out_proj belongs to an nn.MultiheadAttention"):
        get_peft_model(Attends(), random_ropo(target_modules=["out_proj"]))


def test_pytorchs_fused_encoder_is_caught_when_it_takes_its_own_path() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = get_peft_model(nn.Sequential(encoder), random_ropo(target_modules=["linear1"]))
    assert model.train()(torch.randn(1, 3, 8)).shape == (1, 3, 8)
    with torch.inference_mode(), pytest.raises(UserError, match=r"0.linear1 was not called"):
        model.eval()(torch.randn(1, 3, 8))


# loading


def test_loading_refuses_what_peft_refuses_and_values_that_are_not_finite(tmp_path) -> None:
    get_peft_model(tiny_llama(), RopoConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(NoMatchingPeftModuleError):
        PeftModel.from_pretrained(Net(), tmp_path)
    broken = get_peft_model(tiny_llama(), RopoConfig(target_modules=["q_proj"]))
    next(p for p in broken.parameters() if p.requires_grad).data.fill_(float("inf"))
    broken.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds NaN or infinity"):
        PeftModel.from_pretrained(tiny_llama(), tmp_path)
