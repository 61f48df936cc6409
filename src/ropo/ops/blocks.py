"""RoPO's rotation as small matrices: built from the parameters once, and cheap to multiply activations with."""

from __future__ import annotations

__all__ = ()

from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ropo.ops.choose import products_for
from ropo.ops.reflections import compact_reflections, compact_reflections_gradient
from ropo.ops.trees import (
    add_angle_gradient,
    angle_table,
    block_size,
    coarse_plan,
    fine_plan,
    tree_factors,
    tree_matrices,
)


class RotationBlocks(NamedTuple):
    """R = blockdiag(local) + read^T . mix . write, all that a multiplication with R needs.

    The d coordinates are cut into blocks of B. Inside a block, the fine levels of both trees act together as one B x B
    matrix. What crosses blocks goes through blocks + k channels: one for the first coordinate of each block, on which
    the coarse levels of both trees act, and one for each of the reflections' vectors, which all blocks share:

        c_a = x_a read_a[0]^T,     c_{blocks + j} = sum_a x_a read_a[j]^T     (1 <= j <= k),     c' = c mix
        y_b = x_b local_b + c'_b write_b[0] + sum_j c'_{blocks + j} write_b[j]

    All four lie in one tensor, since on small tensors each that autograd handles costs more than its numbers:

    - `local`: (blocks, B, B).
    - `read` and `write`: (blocks, 1 + k, B) each.
    - `mix`: (blocks + k, blocks + k); on its diagonal first the coarse levels less the identity, then what
      the product of reflections adds, and zeros beside them.

    Args:
        packed: (*layers, numbers), their numbers one after the other.
        dim: Number of coordinates d.
        reflections: Number k of reflections.
    """

    packed: Float[Tensor, "*layers numbers"]
    dim: int
    reflections: int

    @property
    def channels(self) -> int:
        """Return blocks + k."""
        return -(-self.dim // block_size(self.dim)) + self.reflections

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return views of `packed`: `local`, `read`, `write` and `mix`."""
        size, channels, each = block_size(self.dim), self.channels, 1 + self.reflections
        blocks = channels - self.reflections
        shapes = (blocks, size, size), (blocks, each, size), (blocks, each, size), (channels, channels)
        parts = self.packed.split([prod(shape) for shape in shapes], -1)
        local, read, write, mix = (part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True))
        return local, read, write, mix

    def apply(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Return x @ R for rows x, in their dtype, at the cost of two small matrix products for each block.

        Cost: 2 tokens d (B + 2 + 2 k) multiplications forward, three times that backward. Arithmetic in the blocks'
        dtype, one rounding. For the backward pass it keeps x itself and d / B + k numbers per token.
        """
        return _Rotate.apply(x, self.packed, self.reflections)


class _Rotate(torch.autograd.Function):
    """One node of the graph, so that only x and the channels are kept; see `RotationBlocks` for the equations.

    Autograd would keep each intermediate product, of the size of x, and would not share its products between blocks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, reflections: int) -> Tensor:
        ctx.products, ctx.reflections = products_for(x, packed), reflections
        with torch.autocast(x.device.type, enabled=False):
            blocks = RotationBlocks(packed, x.shape[-1], reflections)
            out, channels = ctx.products.rotated(x.reshape(-1, blocks.dim), *blocks.parts())
            ctx.save_for_backward(x, packed, channels)
            return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, packed, channels = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            blocks = RotationBlocks(packed, x.shape[-1], ctx.reflections)
            local, read, write, mix = blocks.parts()
            flat, grad = (tensor.reshape(-1, blocks.dim) for tensor in (x, grads[0]))
            # Back through a rotation is the same with all matrices transposed: reading and writing change places.
            grad_x, grad_channels = ctx.products.rotated(grad, local.mT, write, read, mix.mT)
            if not ctx.needs_input_grad[1]:  # frozen blocks, as a layer's with the adapter not trained
                return grad_x.view(x.shape), None, None
            # The gradients are added in place to views of one tensor, packed as the blocks are.
            d_blocks = blocks._replace(packed=torch.zeros_like(packed))
            d_local, d_read, d_write, d_mix = d_blocks.parts()
            # c' = c mix, so d mix = c^T d c', and d c' is what the gradient reads where c' was written.
            d_mix.addmm_(channels, grad_channels.mT)
            ctx.products.add_gradients(flat, grad, mix.mT @ channels, mix @ grad_channels, d_local, d_read, d_write)
            return grad_x.view(x.shape), d_blocks.packed, None


def build_blocks(
    dim: int, givens: Float[Tensor, "trees planes"] | None, reflections: Float[Tensor, "k d"] | None
) -> RotationBlocks:
    """Build the small matrices of `ropo_rotation(dim, givens, reflections)`.

    Args:
        dim: Number of coordinates d.
        givens: (trees, d - 1) radians, forward tree first, or None.
        reflections: (k, d) vectors, or None.

    Returns:
        The blocks, once differentiable with respect to both parameters, in their dtype.

    Raises:
        ValueError: If both parameters are None.

    Cost: O(d B + (d / B)^2) numbers and some sixty operations on small tensors; nothing of size d x d.
    """
    parts = (None if part is None else part.unsqueeze(0) for part in (givens, reflections))
    return build_blocks_of_layers(dim, *parts)[0]


def build_blocks_of_layers(
    dim: int, givens: Float[Tensor, "layers trees planes"] | None, reflections: Float[Tensor, "layers k d"] | None
) -> list[RotationBlocks]:
    """Build the small matrices of several layers of one width at once.

    As `build_blocks` for each layer, but in the same sixty operations however many layers there are: on small tensors
    an operation costs more than its arithmetic.
    """
    like = givens if givens is not None else reflections
    if like is None:
        raise ValueError("a rotation without givens and without reflections is the identity; leave it out")
    angles = like.new_empty(len(like), 0, dim - 1) if givens is None else givens
    vectors = like.new_empty(len(like), 0, dim) if reflections is None else reflections
    return [RotationBlocks(packed, dim, vectors.shape[1]) for packed in _Build.apply(angles, vectors).unbind(0)]


class _Build(torch.autograd.Function):
    """From angles and vectors to blocks, equation by equation, and back in the opposite order.

        local = reverse forward                       coarse = coarse_reverse coarse_forward - I
        H = I + V^T reflect V                         mix = diag(coarse, reflect)
        turned = V R_tree^T = V local^T + (coarse (V . row)) column
        read = [column, turned]                       write = [row, V]

    with `column` the first column of each reverse block, `row` the first row of each forward block, and V and `reflect`
    from `ropo.ops.reflections`. The reflections read x and not the rotated x, so V is turned beforehand. Written out by
    hand because recording the operations one by one costs three times as much.

    What the backward pass needs is kept on `ctx` itself: a checkpointed layer may be computed first with blocks that
    were built for all layers together, and a second time with its own, and must save the same tensors both times.
    """

    @staticmethod
    def forward(ctx: Any, angles: Tensor, vectors: Tensor) -> Tensor:
        with torch.autocast(angles.device.type, enabled=False):
            layers, trees, _ = angles.shape
            plans = [plan(vectors.shape[-1], trees, angles.device) for plan in (fine_plan, coarse_plan)]
            table = angle_table(angles.reshape(layers, -1))
            factors = [tree_factors(table, plan) for plan in plans]
            fine_trees, coarse_trees = (tree_matrices(*pair) for pair in zip(factors, plans, strict=True))
            reverse, forward = fine_trees.unbind(1)
            coarse_reverse, coarse_forward = coarse_trees[:, :, 0].unbind(1)
            blocks, size = reverse.shape[1:3]
            column, row = reverse[..., :1].mT, forward[..., :1, :]
            local = reverse @ forward
            coarse = (coarse_reverse @ coarse_forward)[:, :blocks, :blocks].contiguous()
            coarse.diagonal(dim1=1, dim2=2).sub_(1)
            norms, basis, reflect = compact_reflections(vectors)
            cut = _cut(basis, blocks, size)
            turned = cut @ local.mT + (coarse @ (cut @ row.mT).squeeze(-1)).unsqueeze(-1) * column
            ctx.dims = vectors.shape[-1], trees
            ctx.plans, ctx.factors, ctx.reflections = plans, factors, (norms, basis, reflect)
            mix = torch.cat([functional.pad(coarse, (0, len(reflect[0]))), functional.pad(reflect, (blocks, 0))], 1)
            parts = local, torch.cat([column, turned], 2), torch.cat([row, cut], 2), mix
            packed = torch.cat([part.flatten(1) for part in parts], 1)
            local, *_ = RotationBlocks(packed.detach(), vectors.shape[-1], basis.shape[1]).parts()
            ctx.trees = reverse, forward, coarse_reverse, coarse_forward, local, coarse
            return packed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        reverse, forward, coarse_reverse, coarse_forward, local, coarse = ctx.trees
        norms, basis, reflect = ctx.reflections
        with torch.autocast(local.device.type, enabled=False):
            d_local, d_read, d_write, d_mix = RotationBlocks(grads[0], ctx.dims[0], basis.shape[1]).parts()
            layers, blocks, size, _ = local.shape
            column, row = reverse[..., 0], forward[..., 0, :]
            # mix is block diagonal; what its zeros owe is dropped.
            d_coarse, d_reflect = d_mix[:, :blocks, :blocks], d_mix[:, blocks:, blocks:]

            # turned = cut local^T + (coarse along) column with along = cut . row: the product rule, factor by factor.
            cut, d_turned = _cut(basis, blocks, size), d_read[:, :, 1:]
            along, d_along = (cut @ row.unsqueeze(-1)).squeeze(-1), (d_turned @ column.unsqueeze(-1)).squeeze(-1)
            back = coarse.mT @ d_along
            d_column = d_read[:, :, 0] + ((coarse @ along).unsqueeze(2) @ d_turned).squeeze(2)
            d_row = d_write[:, :, 0] + (back.unsqueeze(2) @ cut).squeeze(2)
            d_cut = (d_write[:, :, 1:] + d_turned @ local).addcmul_(back.unsqueeze(-1), row.unsqueeze(2))
            d_local, d_coarse = d_local + d_turned.mT @ cut, d_coarse + d_along @ along.mT

            # local = reverse forward, and column and row are views of the same two: their gradients are added.
            d_trees = torch.stack([d_local @ forward.mT, reverse.mT @ d_local], 1)
            d_trees[:, 0, :, :, 0] += d_column
            d_trees[:, 1, :, 0] += d_row
            # The coarse trees reach to a power of two; what was cut off there owes nothing.
            over = coarse_reverse.shape[-1] - blocks
            d_coarse = functional.pad(d_coarse, (0, over, 0, over))
            d_coarse_trees = torch.stack([d_coarse @ coarse_forward.mT, coarse_reverse.mT @ d_coarse], 1)

            dim, trees = ctx.dims
            d_angles = local.new_zeros(layers, trees * (dim - 1) + 1)
            for grad, factors, plan in zip((d_trees, d_coarse_trees.unsqueeze(2)), ctx.factors, ctx.plans, strict=True):
                add_angle_gradient(d_angles, grad, factors, plan)
            d_basis = d_cut.transpose(1, 2).reshape(layers, basis.shape[1], blocks * size)[..., :dim]
            d_vectors = compact_reflections_gradient(norms, basis, reflect, d_basis, d_reflect)
            return d_angles[:, :-1].view(layers, trees, dim - 1), d_vectors


def _cut(rows: Tensor, blocks: int, size: int) -> Tensor:
    """Cut (layers, k, d) rows into (layers, blocks, k, size), zeros behind the last coordinate."""
    padded = functional.pad(rows, (0, blocks * size - rows.shape[-1]))
    return padded.view(len(rows), -1, blocks, size).transpose(1, 2)
