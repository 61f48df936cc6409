"""Orthogonal matrices from a few angles and vectors: in pure torch, knowing nothing of models."""

from ropo.rotations.blocks import RotationBlocks, build_blocks, build_blocks_of_layers
from ropo.rotations.givens import GivensTree
from ropo.rotations.householder import Reflections
from ropo.rotations.planes import Planes, by_planes
from ropo.rotations.product import Product, Rotation, ropo_rotation
from ropo.rotations.rotate import rotate

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
