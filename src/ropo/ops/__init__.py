"""Orthogonal matrices from a few angles and vectors: in pure torch, knowing nothing of models."""

from ropo.ops.blocks import RotationBlocks, build_blocks, build_blocks_of_layers
from ropo.ops.givens import GivensTree
from ropo.ops.householder import Reflections
from ropo.ops.planes import Planes, by_planes
from ropo.ops.product import Product, Rotation, ropo_rotation
from ropo.ops.rotate import rotate

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
    "rotate",
]
