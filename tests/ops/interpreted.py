"""The kernels in Triton's interpreter, against plain PyTorch; run by test_gpu.py in a process of its own."""

import itertools
from contextlib import contextmanager

import pytest
import torch

from ropo.ops import blocks as blocks_module
from ropo.ops import build_blocks, plain, stretch, stretching
from ropo.ops.choose import products_for, stretching_for
from ropo.ops.gpu import rotation
from ropo.ops.gpu import stretch as stretch_kernels

WIDTHS = [17, 64, 101]
TOKENS = [0, 1, 130]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def blocks_of(width: int, reflections: int = 2):
    generator = torch.Generator().manual_seed(width)
    givens = torch.randn(2, width - 1, generator=generator)
    vectors = torch.randn(reflections, width, generator=generator) if reflections else None
    return build_blocks(width, givens, vectors)


def results(x, grad, blocks):
    leaves = [x.detach().requires_grad_(), blocks.packed.detach().requires_grad_()]
    output = blocks._replace(packed=leaves[1]).apply(leaves[0])
    grad_x, grad_packed = torch.autograd.grad(output, leaves, grad)
    return [output, grad_x, *blocks._replace(packed=grad_packed).parts()]


def assert_close(ours, expected, dtype, sizes=None):
    # Sums of up to 250 products in another order, then one rounding to the dtype, which may fall otherwise.
    # The interpreter cuts float32 off to bfloat16 (a GPU rounds): up to 2^-7 where PyTorch is off by up to 2^-8.
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-11}[dtype]
    for mine, theirs, size in zip(ours, expected, sizes or expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert (mine.double() - theirs.double()).norm() <= tolerance * size.double().norm() + 1e-30


@pytest.mark.parametrize(("width", "tokens", "dtype"), list(itertools.product(WIDTHS, TOKENS, DTYPES)))
def test_rotation_and_its_gradients(width, tokens, dtype, monkeypatch):
    x, grad = torch.randn(tokens, width).to(dtype), torch.randn(tokens, width).to(dtype)
    blocks = blocks_of(width)
    assert products_for(x, blocks.packed) is rotation
    ours = results(x, grad, blocks)
    monkeypatch.setattr(blocks_module, "products_for", lambda x, packed: plain)
    assert_close(ours, results(x, grad, blocks), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_new_adapter_changes_no_bit(dtype):
    vectors = torch.randn(2, 101).repeat_interleave(2, 0)
    blocks, x = build_blocks(101, torch.zeros(2, 100), vectors), torch.randn(40, 101).to(dtype)
    assert products_for(x, blocks.packed) is rotation
    assert torch.equal(blocks.apply(x), x)


@pytest.mark.parametrize("reflections", [0, 2, 4, 18])
def test_any_number_of_reflections(reflections, monkeypatch):
    x, grad = torch.randn(2, 40, 101), torch.randn(2, 40, 101)
    blocks = blocks_of(101, reflections)
    ours = results(x, grad, blocks)
    monkeypatch.setattr(blocks_module, "products_for", lambda x, packed: plain)
    assert_close(ours, results(x, grad, blocks), torch.float32)


def test_activations_that_do_not_lie_in_order(monkeypatch):
    """Transposed, and a part of something wider."""
    monkeypatch.setattr(rotation, "PROGRAMS", 12)  # each program then works on several slices of tokens
    blocks = blocks_of(101)
    for x, grad in ((torch.randn(101, 250).T, torch.randn(250, 300)[:, 50:151]), (torch.randn(250, 202)[:, ::2],) * 2):
        assert not x.is_contiguous()
        monkeypatch.setattr(blocks_module, "products_for", products_for)
        ours = results(x, grad, blocks)
        monkeypatch.setattr(blocks_module, "products_for", lambda x, packed: plain)
        assert_close(ours, results(x, grad, blocks), torch.float32)


def test_what_the_kernels_do_not_know_goes_to_plain_pytorch():
    blocks = blocks_of(101)
    assert products_for(torch.randn(3, 101).double(), blocks.packed) is plain
    assert products_for(torch.randn(3, 101), blocks.packed.double()) is plain
    assert products_for(torch.randn(3, 8), blocks_of(8).packed) is plain  # blocks of 8
    assert stretching_for(torch.randn(3, 4).double(), torch.randn(4)) is plain


@pytest.mark.parametrize(
    ("neurons", "tokens", "dtype", "bias"),
    list(itertools.product([1, 150], TOKENS, DTYPES, [None, torch.float32, torch.bfloat16])),
)
def test_stretch_and_its_gradients(neurons, tokens, dtype, bias, monkeypatch):
    monkeypatch.setattr(stretch_kernels, "PROGRAMS", 4)  # several slices of tokens a program
    log_scale = torch.randn(neurons)
    scale = log_scale.exp()
    kept = None if bias is None else torch.randn(neurons).to(bias)
    y, grad = torch.randn(tokens, neurons).to(dtype), torch.randn(neurons, tokens).to(dtype).T
    assert stretching_for(y, scale) is stretch_kernels
    ours, expected = (
        [each.stretched(y, log_scale, kept)[0], *each.gradients(grad, y, scale, kept)]
        for each in (stretch_kernels, plain)
    )
    # scale (y - bias) + bias and grad (z - bias) may cancel: compared with the sums of what they are made of
    size, kept_size = y.float().abs(), 0 if kept is None else kept.float().abs()
    output_size = scale * (size + kept_size) + kept_size
    assert_close(ours[:2], expected[:2], dtype, [output_size, expected[1]])
    assert_close(ours[2:], expected[2:], torch.float32, [(grad.float().abs() * (size + kept_size)).sum(0)])


def test_a_stretched_layer_learns_as_in_plain_pytorch(monkeypatch):
    y, log_scale, bias = torch.randn(2, 5, 70), torch.randn(70), torch.randn(70)

    def gradients():
        leaves = [each.clone().requires_grad_() for each in (y, log_scale, bias)]
        return torch.autograd.grad((stretch(*leaves) ** 2).sum(), leaves)

    ours = gradients()
    monkeypatch.setattr(stretching, "stretching_for", lambda y, scale: plain)
    assert_close(ours, gradients(), torch.float32)


def test_kernels_are_launched_on_the_gpu_of_their_activations(monkeypatch):
    current, launched = [], []

    @contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.pop()

    class Watched:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launched.append(any(each is x or each is y for each in current))
            return self.kernel[grid]

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    for module, names in (
        (rotation, ("_read", "_turn", "_gradients")),
        (stretch_kernels, ("_stretch", "_stretch_gradients")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Watched(getattr(module, name)))
    x, y, scale, parts = (
        torch.randn(3, 17),
        torch.randn(3, 4),
        torch.ones(4),
        [each.clone() for each in blocks_of(17).parts()],
    )
    local, read, write, mix = parts
    _, channels = rotation.rotated(x, local, read, write, mix)
    rotation.add_gradients(x, x, channels, channels, local, read, write)
    stretch_kernels.stretched(y, scale, None)
    stretch_kernels.gradients(y, y, scale, None)
    assert launched == [True] * 5
