"""torch.compile, autocast, gradient checkpointing: the layer stays one piece and right."""

import subprocess
import sys
from pathlib import Path

import torch
from peft import get_peft_model

from ropo import RopoConfig
from ropo.adapter import RopoLinear
from ropo.ops import plain
from tests.tiny.adapted import relative_difference, tiny_llama


def layer_of(make) -> RopoLinear:
    torch.manual_seed(0)
    model = get_peft_model(make(), RopoConfig(init_weights=False))
    return next(module for module in model.modules() if isinstance(module, RopoLinear))


def test_compiles_without_graph_breaks() -> None:
    """In a process of its own: the tests' shape checks are Python that torch.compile cannot trace."""
    check = Path(__file__).with_name("compile_check.py")
    done = subprocess.run([sys.executable, str(check)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["compared", "5", "compared", "1"]


def test_autocast_keeps_the_rotation_in_float32() -> None:
    """Under autocast the frozen product runs in bfloat16; the rotation must not."""
    layer = layer_of(tiny_llama)
    x = torch.randn(2, 5, layer.in_features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(x)
        rotated_outside = layer.get_base_layer()(layer.ropo_parameters["default"].rotation().apply(x))
    assert result.dtype == torch.bfloat16
    exact = rotated_outside * layer.ropo_parameters["default"].scale()
    # both round the same float32 rotation to bfloat16 once; one more rounding of the result is 2^-8
    assert relative_difference(result.float(), exact.float()) < 2**-7
    weight = torch.randn_like(result)
    (result * weight).sum().backward()
    gradients = [p.grad for p in layer.parameters() if p.requires_grad]
    assert len(gradients) == 3
    assert all(g.dtype == torch.float32 and g.abs().sum() > 0 for g in gradients)


def test_magnitudes_learn_in_float32_whatever_autocast_says() -> None:
    grad, z, scale = torch.randn(300, 8), torch.randn(300, 8), torch.randn(8).exp()
    alone = plain.gradients(grad, z, scale, None)
    with torch.autocast("cpu"):
        within = plain.gradients(grad, z, scale, None)
    assert all(torch.equal(one, other) for one, other in zip(alone, within, strict=True))
