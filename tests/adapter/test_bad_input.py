import pytest
from peft import get_peft_model
from torch import nn

from ropo import RopoConfig
from ropo.core.errors import UserError
from tests.tiny.adapted import tiny_llama


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reflections": 3}, "reflections: must be an even number, 0 or more, got 3"),
        ({"reflections": -2}, "got -2"),
        ({"givens": "backward"}, "givens: must be one of bidirectional, forward, none, got 'backward'"),
        ({"givens": "none", "reflections": 0, "magnitude": False}, "nothing is left to train"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform: cannot be combined"),
        ({"layers_pattern": "layers"}, "layers_pattern: needs layers_to_transform"),
    ],
)
def test_configuration_names_field_rule_and_value(options, message) -> None:
    with pytest.raises(UserError, match=message):
        RopoConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_prj"]}, "no layer 'q_prj'; did you mean 'q_proj'"),
        ({"target_modules": ["q_proj", "nothing_like_it"]}, "no layer 'nothing_like_it'"),
        ({"target_modules": ["lm_head"]}, "lm_head is the output head"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens is a Embedding"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [7]}, "q_proj"),
    ],
)
def test_wrong_targets_leave_the_model_untouched(options, message) -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, RopoConfig(**options))
    assert not any("ropo" in name for name, _ in model.named_modules())


def test_unknown_architecture_lists_what_could_be_adapted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)

    with pytest.raises(UserError, match="give some of its linear layers: decode, encode"):
        get_peft_model(Net(), RopoConfig())
