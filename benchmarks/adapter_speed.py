"""What an adapter costs: a training step, its memory, a layer, building the blocks, and the growth with the width.

    python benchmarks/adapter_speed.py step --model SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/adapter_speed.py memory --model SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/adapter_speed.py layer --kin
    python benchmarks/adapter_speed.py blocks
    python benchmarks/adapter_speed.py width

All columns of one table are measured in turn within one run; trust the ratios, not the milliseconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measure import interleave, report, summary
from peft import BOFTConfig, HRAConfig, LoraConfig, OFTConfig, PeftConfig, PsoftConfig, RoadConfig, get_peft_model
from torch import nn

import ropo
from ropo.adapter import RopoLinear
from ropo.lm.loading import load_model
from ropo.ops import RotationBlocks, build_blocks, build_blocks_of_layers, rotation_of

TARGETS = ["q_proj", "v_proj"]
METHODS: dict[str, Callable[[], PeftConfig | None]] = {
    "lora r=8": lambda: LoraConfig(r=8, target_modules=TARGETS),
    "ropo": lambda: ropo.RopoConfig(target_modules=TARGETS),
    "ropo rotations": lambda: ropo.RopoConfig(target_modules=TARGETS, magnitude=False),  # what `ropo train` trains
    "oft block 32": lambda: OFTConfig(oft_block_size=32, r=0, target_modules=TARGETS),
    "road": lambda: RoadConfig(variant="road_1", target_modules=TARGETS),
    "psoft r=46": lambda: PsoftConfig(r=46, target_modules=TARGETS),
    "hra r=2": lambda: HRAConfig(r=2, target_modules=TARGETS),
    "boft m=2 b=8": lambda: BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=2, target_modules=TARGETS),
}


def training_step(method: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """Return one step on 4 x 256 tokens: forward, backward, optimizer."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    model = get_peft_model(load_model(arguments.model, dtype), METHODS[method]())
    if arguments.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    tokens = torch.randint(10, 1000, (4, 256))

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_steps(arguments: argparse.Namespace) -> None:
    """Compare a training step of every method with LoRA's."""
    steps = {name: training_step(name, arguments) for name in arguments.methods}
    seconds = interleave(steps, arguments.rounds)
    report("one training step, 4 x 256 tokens, q_proj and v_proj", summary(seconds, "lora r=8"), arguments.output)


def measure_memory(arguments: argparse.Namespace) -> None:
    """Compare the peak memory of two steps, a fresh process for every method."""
    if arguments.one:
        step = training_step(arguments.one, arguments)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step()
        step()
        print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    rows = []
    for name in arguments.methods:
        command = [sys.executable, __file__, "memory", "--model", arguments.model, "--one", name]
        command += ["--checkpointing"] * arguments.checkpointing + ["--bf16"] * arguments.bf16
        # Each tensor is mapped on its own, so that memory which the allocator has idle is not counted.
        mapped = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=mapped)
        loaded, peak = (int(number) / 1024 for number in done.stdout.split()[-2:])
        rows.append({"name": name, "loaded_mib": loaded, "peak_mib": peak})
    how = ", bfloat16" * arguments.bf16 + ", gradient checkpointing" * arguments.checkpointing
    report(f"peak memory of a training step, 4 x 256 tokens{how}", rows, arguments.output)


def layer_step(layer: nn.Module, tokens: int, width: int) -> Callable[[], None]:
    """Return forward and backward of one layer, the gradient of its input included."""
    x, grad = torch.randn(tokens, width, requires_grad=True), torch.randn(tokens, width)

    def step() -> None:
        layer(x).backward(grad)
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None

    return step


def layer_in_a_model(frozen: nn.Module, width: int) -> RopoLinear:
    """Return an adapted layer as it stands in a model: blocks, if there are any, were built for all layers together."""
    layer = RopoLinear(frozen, "default", ropo.RopoConfig())
    parameters = layer.ropo_parameters["default"]
    rotation = rotation_of(width, *parameters.pair)
    if isinstance(rotation, RotationBlocks):
        layer.packed_blocks = nn.Parameter(rotation.packed.detach())
        rotation = rotation._replace(packed=layer.packed_blocks)
    parameters.shared = rotation, parameters.log_magnitude
    return layer


def keep_freed_memory() -> None:
    """Bring glibc into its state during training: once a large block was freed, it keeps what is freed later."""
    torch.zeros(31 << 18)


def measure_layers(arguments: argparse.Namespace) -> None:
    """Compare one adapted layer with the frozen layer alone."""
    keep_freed_memory()
    # At 4096 PSOFT's decomposition and BOFT's steps take too long to wait for.
    few = ("lora r=8", "oft block 32", "road", "hra r=2")
    for width, tokens, kin in ((4096, 512, few), (576, 1024, (*few, "psoft r=46", "boft m=2 b=8"))):
        frozen = nn.Linear(width, width, bias=False).requires_grad_(False)
        layers = {"frozen": frozen, "ropo": layer_in_a_model(frozen, width)}
        layers["ropo called alone"] = RopoLinear(frozen, "default", ropo.RopoConfig())
        for name in kin if arguments.kin else ():
            holder = nn.ModuleDict({"q_proj": frozen})
            config = METHODS[name]()
            config.target_modules = {"q_proj"}
            layers[name] = get_peft_model(holder, config).base_model.model["q_proj"]
        steps = {name: layer_step(layer, tokens, width) for name, layer in layers.items()}
        seconds = interleave(steps, arguments.rounds)
        report(f"one layer, d = n = {width}, {tokens} tokens", summary(seconds, "frozen"), arguments.output)


def blocks_step(width: int, layers: int) -> Callable[[], None]:
    """Return building the blocks of some layers, and the gradient of their parameters."""
    givens = torch.zeros(layers, 2, width - 1, requires_grad=True)
    reflections = torch.randn(layers, 2, width, requires_grad=True)
    grads = [torch.randn_like(build_blocks(width, givens[0], reflections[0]).packed)] * layers

    def step() -> None:
        packed = [blocks.packed for blocks in build_blocks_of_layers(width, givens, reflections)]
        torch.autograd.grad(packed, (givens, reflections), grads)

    return step


def measure_blocks(arguments: argparse.Namespace) -> None:
    """Measure the work from parameters to blocks and back, for 32 layers together and for one alone."""
    keep_freed_memory()
    for width in (576, 4096):
        steps = {f"d = {width}, {layers} layers": blocks_step(width, layers) for layers in (1, 32)}
        rows = summary(interleave(steps, arguments.rounds), f"d = {width}, 1 layers")
        report(f"building blocks, d = {width}, forward and backward", rows, arguments.output)


def measure_widths(arguments: argparse.Namespace) -> None:
    """Measure the rotation alone, without the frozen product, from d = 512 to 16384.

    On 256 tokens: glibc maps blocks above 32 MiB anew each time, and faulting their pages in would be all one sees.
    """
    keep_freed_memory()
    steps = {}
    for width in (512, 1024, 2048, 4096, 8192, 16384):
        layer = layer_in_a_model(nn.Linear(width, 1, bias=False), width)
        layer.ropo_parameters["default"].shared = layer.ropo_parameters["default"].shared[0], None
        layer.base_layer = nn.Identity()
        steps[f"d = {width}"] = layer_step(layer, 256, width)
    rows = summary(interleave(steps, arguments.rounds), "d = 512")
    for row in rows:
        row["us_per_coordinate"] = 1000 * row["p50_ms"] / int(row["name"].split()[-1])
    report("the rotation alone, 256 tokens, forward and backward", rows, arguments.output)


MEASUREMENTS = {
    "step": measure_steps,
    "memory": measure_memory,
    "layer": measure_layers,
    "blocks": measure_blocks,
    "width": measure_widths,
}


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--model", help="the model of `step` and `memory`: folder, hub id or .gguf file")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--checkpointing", action="store_true", help="train with gradient checkpointing")
    parser.add_argument("--bf16", action="store_true", help="train a model in bfloat16")
    parser.add_argument("--kin", action="store_true", help="measure other methods' layers too")
    parser.add_argument("--output", type=Path, help="JSON Lines file to append to")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    MEASUREMENTS[arguments.what](arguments)


if __name__ == "__main__":
    main()
