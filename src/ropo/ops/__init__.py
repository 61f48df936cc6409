"""Rotate and stretch: orthogonal matrices from a few angles and vectors, and a factor a neuron; in pure torch.

`choose.py` says who computes each: C, Triton or plain PyTorch; `reference.py` has both in their readable form.
"""

from ropo.ops.blocks import RotationBlocks, build_blocks, build_blocks_of_layers
from ropo.ops.choose import by_planes
from ropo.ops.reference import GivensTree, Product, Reflections, ropo_rotation
from ropo.ops.rotate import Planes, Rotation, rotation_of, rotations_of_layers
from ropo.ops.stretching import stretch

__all__ = [
    "GivensTree",
    "Planes",
    "Product",
    "Reflections",
    "Rotation",
    "RotationBlocks",
    "build_blocks",
    "build_blocks_of_layers",
    "by_planes",
    "ropo_rotation",
    "rotation_of",
    "rotations_of_layers",
    "stretch",
]
