"""Choose who multiplies activations by a rotation's blocks: kernels or plain PyTorch."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ropo.ops import batched
from ropo.ops.plan import MAX_BLOCK, block_size
from ropo.ops.trial import differences_on
from ropo.ops.trust import kernels_on


def products_for(x: Tensor, packed: Tensor) -> ModuleType:
    """Return the module with `rotated` and `add_gradients` that knows device, dtypes and sizes, else `batched`."""
    if x.dtype == torch.float64 or packed.dtype != torch.float32 or block_size(x.shape[-1]) != MAX_BLOCK:
        return batched
    if kernels_on(x.device, differences_on) != "gpu":
        return batched
    from ropo.ops.gpu import rotation as on_gpu  # imports Triton, which is not on every machine

    return on_gpu
