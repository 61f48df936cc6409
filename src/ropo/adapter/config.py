"""The configuration of the RoPO adapter."""

from __future__ import annotations

__all__ = ()

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from ropo.adapter.register import ROPO
from ropo.core.errors import UserError
from ropo.lm.strength import check_strength, check_whole

_GIVENS = ("bidirectional", "forward", "none")


@dataclass
class RopoConfig(PeftConfig):
    """Configure an adapter that rotates a layer's neurons and stretches each of them.

    z = m * (R W / ||W||)^T x + b, R orthogonal, m > 0 (arXiv 2508.17637, equation of section 3).

    Args:
        target_modules: Names of the linear layers to adapt: a list of name endings, a regular expression, or
            "all-linear". None: the query and value projections of every architecture that PEFT knows.
        givens: Trees of Givens rotations: "bidirectional" (forward and reverse), "forward", or "none".
        reflections: Number of Householder reflections, even (so that det R = +1) and at least 0.
        magnitude: Whether each neuron's length is trained.
        exclude_modules: Names never to adapt, as in `target_modules`.
        layers_to_transform: Indices of the transformer layers to adapt; None for all.
        layers_pattern: Name of the list that holds the transformer layers, where PEFT does not find it.
        modules_to_save: Modules outside the adapter to train and save in full.
        strength: How far the adapter is turned: its angles, the turns of its reflections and its log-magnitudes are
            multiplied by this. 1 is the adapter as trained, 0 the base model; at most 2. Training needs 1.
        init_weights: True starts from the identity, so that the policy is the reference; False from random rotations,
            for tests.

    Raises:
        UserError: If a field breaks its rule.

    Cost: 2 (d - 1) + 2 d + n trainable numbers for a layer with d inputs and n neurons, float32 whatever the model's
    dtype.
    """

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of the layers to adapt; the query and value projections if not given."}
    )
    givens: str = field(
        default="bidirectional", metadata={"help": "Trees of Givens rotations: bidirectional, forward or none."}
    )
    reflections: int = field(default=2, metadata={"help": "Number of Householder reflections; even, 0 for none."})
    magnitude: bool = field(default=True, metadata={"help": "Whether each neuron's length is trained."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names of layers never to adapt."})
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the transformer layers to adapt; all if not given."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of transformer layers, where PEFT does not find it."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the adapter to train and save in full."}
    )
    init_weights: bool = field(default=True, metadata={"help": "Start from the identity (False: random, for tests)."})

    strength: float = field(
        default=1.0, metadata={"help": "How far the adapter is turned: 0 the base model, 1 as trained, at most 2."}
    )

    source = ""  # where it was read from; not a field, so it is not saved

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Read a saved configuration as PEFT does, and remember where from, to name it if its weights are at fault."""
        config = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        config.source = str(pretrained_model_name_or_path)
        return config

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        self.peft_type = ROPO
        self._check_rotation()
        self._check_layers()
        self.strength = check_strength(self.strength)
        if self.strength != 1:
            check_whole(self)
        for name in ("target_modules", "exclude_modules"):
            value: Any = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, set(value))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, sets as sorted lists, so that the saved file is the same every time.

        A strength of 1, as every trained adapter has, is left out: older versions of this package read such a file too.
        """
        fields = super().to_dict()
        if fields["strength"] == 1:
            del fields["strength"]
        return {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}

    def _check_rotation(self) -> None:
        if self.givens not in _GIVENS:
            raise UserError(f"givens: must be one of {', '.join(_GIVENS)}, got {self.givens!r}; choose one of these")
        reflections: Any = self.reflections
        if not isinstance(reflections, int) or isinstance(reflections, bool) or reflections < 0 or reflections % 2:
            raise UserError(
                f"reflections: must be an even number, 0 or more, got {reflections!r}; "
                "use 2 (the default) or 0: an odd number would mirror the weights"
            )
        if self.givens == "none" and not self.reflections and not self.magnitude:
            raise UserError("givens='none', reflections=0, magnitude=False: nothing is left to train; keep one of them")

    def _check_layers(self) -> None:
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"{name}: cannot be combined with target_modules given as a regular expression "
                        f"({self.target_modules!r}); put the layers into the expression, or give a list of names"
                    )
        if self.layers_pattern and self.layers_to_transform is None:
            raise UserError(f"layers_pattern: needs layers_to_transform, got {self.layers_pattern!r} alone; give both")
