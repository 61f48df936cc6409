"""Compile an adapted layer as one graph and compare it with the eager one; run by test_compile_and_autocast.py."""

import torch
from torch import nn

from ropo import RopoConfig
from ropo.adapter import RopoLinear


def main(grad: bool) -> None:
    torch.manual_seed(0)
    layer = RopoLinear(nn.Linear(101, 40), "default", RopoConfig(init_weights=False))
    layer.base_layer.requires_grad_(False)
    x = torch.randn(2, 5, 101, requires_grad=grad)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(grad):
        expected, result = [layer(x)], [compiled(x)]
    if grad:
        leaves = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
        weights = torch.randn_like(expected[0])
        expected += torch.autograd.grad((expected[0] * weights).sum(), leaves)
        result += torch.autograd.grad((result[0] * weights).sum(), leaves)
    for ours, eager in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, eager, atol=1e-4, rtol=1e-4)
    print("compared", len(result))


if __name__ == "__main__":
    main(grad=True)
    main(grad=False)
