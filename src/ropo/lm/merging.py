"""Fold an adapter into its base model, exactly and rounded once, and tell whether it is still the same model."""

from __future__ import annotations

__all__ = ["Merged", "load_unmerged", "merge", "stored_dtype"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.lm.adapters import adapter_base, load_adapter
from ropo.lm.loading import dequantised, load_model
from ropo.lm.sameness import Distance, Probe, arithmetic_distance, distance, logits_on, make_probe


@dataclass(frozen=True)
class Merged:
    """A merged model and how it was found to differ from the adapter.

    Attributes:
        model: Plain, in float32 until the caller rounds it.
        source: Folder of the adapter.
        probe: What it was compared on.
        trained: The adapter's logits there.
        effect: How far the base model is from the adapter.
        unrounded: How far the merged model is from it before its weights are rounded.
        arithmetic: How far a logit may be off by the rounding of float32 products alone.
    """

    model: PreTrainedModel
    source: str
    probe: Probe
    trained: Float32[Tensor, "tokens vocabulary"]
    effect: Distance
    unrounded: Distance
    arithmetic: float

    def check(self) -> None:
        """Refuse a merge that gives another model.

        In exact arithmetic both are one function, and a weight's dtype enters only afterwards, when it is rounded. So
        before that no more than the rounding of float32 products may lie between them.
        """
        if not self.unrounded.largest <= self.arithmetic:  # NaN is not, either
            raise UserError(
                f"adapter {self.source}: merged, it is another model: {self.unrounded}, where rounding in float32 "
                f"explains {self.arithmetic:.2g}; perhaps another layer shares an adapted weight, or reads it past the "
                "adapter; use the adapter as it is, or write the merged model all the same with --force"
            )

    def check_saved(self, folder: Path, trust_remote_code: bool = False) -> Distance:
        """Load the model that was saved, and compare it with the adapter.

        Args:
            folder: Where the merged model was saved, in any dtype, which it still has.
            trust_remote_code: Whether code that ships with it may run.

        Returns:
            How far the saved weights are from the adapter, computed in float32.

        Raises:
            UserError: If a weight that comes back is not the one that was saved.

        Cost: the weights once more in float32.
        """
        saved = load_model(str(folder), torch.float32, trust_remote_code)
        written = saved.state_dict()
        for name, weight in self.model.state_dict().items():
            if name not in written or not torch.equal(written[name].float(), weight.float()):
                raise UserError(
                    f"adapter {self.source}: {name} does not come back from the merged checkpoint as it was merged; "
                    "use the adapter as it is, or keep the checkpoint all the same with --force"
                )
        return self.distance_of(saved)

    def distance_of(self, model: Any) -> Distance:
        """Say how far a model is from the adapter.

        Cost: see `ropo.lm.sameness.logits_on`.
        """
        return distance(self.trained, logits_on(model, self.probe))


def load_unmerged(source: str, trust_remote_code: bool = False) -> PeftModel:
    """Load an adapter on its base model as it is best merged: in float32, with plain weights.

    Args:
        source: Folder of a PEFT adapter, of any method.
        trust_remote_code: Whether code that ships with the base model may run.

    Raises:
        UserError: If one of the two cannot be loaded, or the weights of the base model cannot be dequantised.

    Cost: the base model in float32.
    """
    return load_adapter(dequantised(load_model(adapter_base(source), torch.float32, trust_remote_code)), source)


def merge(policy: PeftModel, tokenizer: PreTrainedTokenizerBase, source: str) -> Merged:
    """Fold an adapter into its base model and compare the two.

    Args:
        policy: From `load_unmerged`; it is used up.
        tokenizer: Its tokenizer.
        source: Its folder, for what is said about it.

    Returns:
        The merged model in float32, which a caller checks before it is used (`Merged.check`).

    Raises:
        UserError: If the merged weights are not finite.

    Cost: that of `RopoLinear.merge` or of PEFT's own method, sixteen new tokens for each of eight prompts, and five
        forward passes over these.
    """
    probe = make_probe(policy, tokenizer)
    trained = logits_on(policy, probe)
    with policy.disable_adapter():
        effect = distance(trained, logits_on(policy, probe))
    model = _folded(policy, source)
    found = logits_on(model, probe)
    return Merged(
        model, source, probe, trained, effect, distance(trained, found), arithmetic_distance(model, probe, found)
    )


def stored_dtype(model: str, trust_remote_code: bool = False) -> torch.dtype:
    """Return the dtype a checkpoint is stored in; float32 for GGUF files, and where its configuration is silent."""
    if model.endswith(".gguf"):
        return torch.float32
    return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code).dtype or torch.float32


def _folded(policy: Any, source: str) -> PreTrainedModel:
    try:
        merged: PreTrainedModel = policy.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"adapter {source}: cannot be merged ({error}); train it again") from error
    return merged.eval()
