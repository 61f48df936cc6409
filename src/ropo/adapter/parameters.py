"""One adapter's trainable numbers on one layer, and the rotation that they make."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropo.adapter.config import RopoConfig
from ropo.adapter.strength import turned_partly
from ropo.core.errors import UserError
from ropo.ops import Product, Rotation, ropo_rotation, rotation_of

_Acting = tuple[Rotation | None, Float[Tensor, " n"] | None]

_TREES = {"bidirectional": 2, "forward": 1, "none": 0}


class RopoParameters(nn.Module):
    """The angles, reflection vectors and magnitudes of one adapter on one layer.

    - `givens`: (trees, d - 1) radians, the forward tree first; zero at start.
    - `reflections`: (k, d), in equal pairs at start, so that each pair is the identity and still has a gradient. Their
      entries have unit variance: a step of size lr then turns a vector by about lr, as it does an angle.
    - `log_magnitude`: (n,), m = ||w|| exp(log_magnitude): positive whatever the optimizer does, and its step is
      relative to the neuron. Zero at start.

    What acts is these at `strength`: angles, the turns of the reflections and log-magnitudes times that. At 1 the
    parameters themselves act; at another strength they get no gradient.

    What a configuration leaves out is None. All are float32 at least, in a bfloat16 model too: bfloat16 would swallow
    the updates of an angle near 1 (its steps there are 4e-3).
    """

    def __init__(self, config: RopoConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        trees, reflections = _TREES[config.givens], config.reflections
        self.in_features = in_features
        self.strength = config.strength
        self.givens = nn.Parameter(torch.empty(trees, in_features - 1)) if trees else None
        self.reflections = nn.Parameter(torch.empty(reflections, in_features)) if reflections else None
        self.log_magnitude = nn.Parameter(torch.empty(out_features)) if config.magnitude else None
        self.shared: _Acting | None = None
        self._cached: tuple[float, list[Tensor], Rotation] | None = None
        self._reset(identity=config.init_weights)

    def _reset(self, identity: bool) -> None:
        for angles in (self.givens, self.log_magnitude):
            if angles is not None:
                nn.init.zeros_(angles) if identity else nn.init.normal_(angles, std=0.3)
        if self.reflections is not None:
            nn.init.normal_(self.reflections)
            if identity:
                with torch.no_grad():
                    self.reflections[1::2] = self.reflections[0::2]

    def forward(self) -> _Acting:
        """Return R, in the form that is fastest here, and log(m / ||w||); None for what is not trained.

        Within `sharing.build_together` both are in `shared` already.

        Where weights are cut over processes, as by DeepSpeed's ZeRO-3, a module has its own whole only while its
        forward pass runs. So this is one, and gives away no parameter itself.
        """
        self.keep_float32()
        log_scale = self.log_scale
        return self._current() if self.rotates else None, None if log_scale is None else log_scale.clone()

    def acts(self) -> bool:
        """Tell whether it changes anything, which at strength 0 it does not.

        Raises:
            UserError: If it is being trained at another strength than 1: its parameters are those of 1.
        """
        if self.strength == 1:
            return True
        trained = self.training and torch.is_grad_enabled()
        if trained and any(part.requires_grad for part in self.parameters(recurse=False)):
            raise UserError(
                f"strength: adapters are trained at strength 1, got {self.strength:g}; call set_strength(1) to train "
                "it, or eval() to run it"
            )
        return self.strength != 0

    @property
    def rotates(self) -> bool:
        """Whether there is a rotation at all (an ablation may train magnitudes alone)."""
        return self.givens is not None or self.reflections is not None

    def rotation(self) -> Product:
        """Return R factor by factor in float64, without gradient; for merging and diagnostics."""
        parts = (None if part is None else part.detach().double() for part in (self.givens, self.reflections))
        return ropo_rotation(self.in_features, *self._at_strength(*parts))

    def scale(self) -> Float[Tensor, " n"] | None:
        """Return m / ||w|| = exp(log_magnitude), or None where magnitudes are not trained."""
        log_scale = self.log_scale
        return None if log_scale is None else log_scale.exp()

    @property
    def log_scale(self) -> Float[Tensor, " n"] | None:
        """log(m / ||w||) at the strength, or None where magnitudes are not trained."""
        if self.log_magnitude is None or self.strength == 1:
            return self.log_magnitude
        return self.strength * self.log_magnitude.detach()

    def _current(self) -> Rotation:
        """Return R: differentiable while gradients are recorded, else from a cache.

        The cache is compared by value with the parameters that made it: a version counter would miss writes through
        `.data`, and comparing a few thousand numbers costs less than building from them.
        """
        parts = [part for part in (self.givens, self.reflections) if part is not None]
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or parts[0].is_meta:
            return self._made()
        cached = self._cached
        if cached is None or cached[0] != self.strength or not all(map(_same, cached[1], parts)):
            cached = self._cached = self.strength, [part.detach().clone() for part in parts], self._made()
        return cached[2]

    def _made(self) -> Rotation:
        return rotation_of(self.in_features, *(None if part is None else part.clone() for part in self.pair))

    @property
    def pair(self) -> tuple[Tensor | None, Tensor | None]:
        """The angles and the reflection vectors at the strength, None for what there is not."""
        return self._at_strength(self.givens, self.reflections)

    def _at_strength(self, givens: Tensor | None, reflections: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if self.strength == 1:
            return givens, reflections
        return turned_partly(givens, reflections, self.strength)

    def keep_float32(self) -> None:
        """Widen parameters that someone narrowed behind our back, as TRL does on quantised base models."""
        for part in self.parameters(recurse=False):
            if part.dtype in (torch.bfloat16, torch.float16):
                part.data = part.data.float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RopoParameters:
        """Follow `.to(device)`, but let `.to(bfloat16)` or `.half()` pass without loss."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype in (torch.float32, torch.float64) else tensor.to(moved.device)

        self._cached = None
        return super()._apply(at_least_float32, recurse)


def _same(cached: Tensor, current: Tensor) -> bool:
    return cached.dtype == current.dtype and cached.device == current.device and torch.equal(cached, current)
