"""A merged model is the adapter's, to the rounding of its arithmetic; one that is not is refused."""

from __future__ import annotations

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from ropo import RopoConfig
from ropo.adapter.layer import RopoLinear
from ropo.core.errors import UserError
from ropo.lm.loading import load_model, load_tokenizer
from ropo.lm.merging import load_unmerged, merge, stored_dtype
from ropo.lm.sameness import arithmetic_distance, distance, logits_on, make_probe
from tests.tiny.sampled import save_tiny

TARGETS = ["q_proj", "v_proj"]
METHODS = {
    "ropo": RopoConfig(init_weights=False),
    "lora": peft.LoraConfig(init_lora_weights=False, target_modules=TARGETS),
    "oft": peft.OFTConfig(init_weights=False, oft_block_size=8, target_modules=TARGETS),
    "hra": peft.HRAConfig(init_weights=False, target_modules=TARGETS),
    "ia3": peft.IA3Config(init_ia3_weights=False, target_modules=TARGETS, feedforward_modules=[]),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


def save_adapter(base, folder, config, dtype=torch.float32) -> str:
    torch.manual_seed(1)
    policy = get_peft_model(load_model(base, dtype), config)
    policy.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    return str(folder)


def merged_from(source):
    return merge(load_unmerged(source), load_tokenizer(source), source)


@pytest.mark.parametrize("method", METHODS)
def test_no_more_than_rounding_lies_between_adapter_and_merged_model(base, tmp_path, method):
    merged = merged_from(save_adapter(base, tmp_path, METHODS[method]))
    merged.check()
    assert merged.unrounded.agreeing == 1.0
    assert merged.effect.largest > 1e4 * merged.arithmetic  # so the bound is no blank cheque
    assert type(merged.model).__name__ == "LlamaForCausalLM"


def test_the_bound_follows_the_arithmetic(base):
    """Bfloat16 has 2^16 times the epsilon of float32; a model computed in it is off by no more than it then says."""
    model, tokenizer = load_model(base), load_tokenizer(base)
    probe = make_probe(model, tokenizer)
    exact = logits_on(model, probe)
    narrow = load_model(base).bfloat16()
    rounded = load_model(base).bfloat16().float()  # the same weights
    allowed = arithmetic_distance(narrow, probe, logits_on(narrow, probe))
    off = distance(logits_on(rounded, probe), logits_on(narrow, probe)).largest
    assert 1e-3 < off < allowed
    assert 2**13 < allowed / arithmetic_distance(model, probe, exact) < 2**19


def _transposed(self, name):
    parameters = self.ropo_parameters[name]
    weight = parameters.rotation().apply(self._neurons())
    return weight * parameters.scale().detach().double().unsqueeze(1)


def _slightly_off(self, name):
    return self._exactly(name) * 1.0003  # a tenth of what bfloat16's rounding does to a weight


@pytest.mark.parametrize("wrong", [_transposed, _slightly_off])
def test_a_wrong_merge_is_refused(base, tmp_path, monkeypatch, wrong):
    source = save_adapter(base, tmp_path, METHODS["ropo"])
    monkeypatch.setattr(RopoLinear, "_exactly", RopoLinear._merged_weight, raising=False)
    monkeypatch.setattr(RopoLinear, "_merged_weight", wrong)
    merged = merged_from(source)
    with pytest.raises(UserError, match=r"merged, it is another model: .* where rounding in float32 explains"):
        merged.check()


def test_a_layer_that_was_left_out_is_refused(base, tmp_path, monkeypatch):
    source = save_adapter(base, tmp_path, METHODS["ropo"])
    policy = load_unmerged(source)
    last = [module for module in policy.modules() if isinstance(module, RopoLinear)][-1]
    monkeypatch.setattr(last, "merge", lambda **options: None)
    with pytest.raises(UserError, match="it is another model"):
        merge(policy, load_tokenizer(source), source).check()


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, that this is risky
def test_a_weight_that_two_layers_share_is_refused(base, tmp_path):
    """PEFT writes the adapter of a tied head into the embeddings too."""
    model = load_model(base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    load_tokenizer(base).save_pretrained(tmp_path / "tied")
    config = peft.LoraConfig(init_lora_weights=False, target_modules=["lm_head"])
    source = save_adapter(str(tmp_path / "tied"), tmp_path / "adapter", config)
    merged = merged_from(source)
    with pytest.raises(UserError, match="another layer shares an adapted weight"):
        merged.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_saved_is_compared_with_what_was_merged(base, tmp_path, dtype):
    source = save_adapter(base, tmp_path / "adapter", METHODS["ropo"])
    merged = merged_from(source)
    merged.model.to(dtype).save_pretrained(tmp_path / "merged")
    found = merged.check_saved(tmp_path / "merged")
    assert found.kl < 1e-2 * merged.effect.kl
    assert (found.largest <= merged.arithmetic) == (dtype == torch.float32)
    assert stored_dtype(str(tmp_path / "merged")) == dtype
    file = tmp_path / "merged" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.self_attn.v_proj.weight"][3, 5] *= 1.01
    file.unlink()  # not written over: it may still be mapped
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.v_proj\.weight does not come back"):
        merged.check_saved(tmp_path / "merged")


def test_distances_by_hand():
    ours = torch.tensor([[0.0, 0.0], [0.0, 0.0]]).log_softmax(-1)
    theirs = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    found = distance(ours, theirs)  # logits log 1/2 against log 3, log 1
    assert (found.tokens, found.agreeing) == (2, 1.0)
    assert found.largest == pytest.approx(torch.tensor(6.0).log().item())
    assert found.kl == pytest.approx(0.25 * torch.tensor(4 / 3).log().item())  # half of ln(1 / sqrt(4 * 3/4 * 1/4))


def test_the_policy_answers_the_probe(base, tmp_path):
    source = save_adapter(base, tmp_path, METHODS["ropo"])
    policy = load_unmerged(source)
    assert isinstance(policy, PeftModel)
    probe = make_probe(policy, load_tokenizer(source))
    logits = logits_on(policy, probe)[:, : len(load_tokenizer(source))]  # no answer has an id without a text
    assert logits.argmax(-1).tolist() == [token for answer in probe.answers for token in answer]
    assert len(probe.prompts) == len(probe.answers) == 8
