"""PEFT adapter folders: what they say of themselves, and putting one on its base model."""

from __future__ import annotations

__all__ = [
    "adapter_base",
    "adapter_config_of",
    "base_model_of",
    "check_trainable",
    "evaluating",
    "is_adapter",
    "load_adapter",
]

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from ropo.core.errors import UserError
from ropo.lm.capacity import embedding_rows
from ropo.lm.checkpoint_checks import check_values, reason_of
from ropo.lm.dial import strength_dial
from ropo.lm.strength import ADAPTER_CONFIG, split_strength


def is_adapter(source: str) -> bool:
    """Tell whether `source` is a local PEFT adapter folder, or one at a strength, as in `DIR@0.5`.

    Raises:
        UserError: If it names a strength, and this is none or the folder no adapter.
    """
    return (Path(split_strength(source)[0]) / ADAPTER_CONFIG).is_file()


def load_adapter(base: PreTrainedModel, source: str, trainable: bool = False) -> PeftModel:
    """Put an adapter on its base model, and check what was in its file.

    Args:
        base: The base model, changed in place.
        source: A PEFT adapter folder, also at a strength, as in `DIR@0.5`.
        trainable: Whether it is to be trained further.

    Returns:
        The adapted model.

    Raises:
        UserError: If the file cannot be read, a tensor is missing or has another shape than the base model asks for,
            a value is NaN or infinite, PEFT cannot train the method further, it is to be trained at another strength
            than 1, or its method has no strength.

    Cost: one pass over the adapter.
    """
    if trainable:
        check_trainable(source)
    named = source
    source, asked = split_strength(source)
    _resize_embeddings(base, source)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, source, is_trainable=trainable)
    except UserError as error:
        prefix = f"adapter {source}: "
        raise UserError(prefix + str(error).removeprefix(prefix)) from error
    except (RuntimeError, SafetensorError, UserWarning) as error:
        reason = " ".join(str(error).split())
        mismatch = re.search(r"size mismatch for (.*?)\. ?$|size mismatch for .*", reason)
        reason = mismatch.group() if mismatch else reason
        raise UserError(
            f"adapter {source}: does not fit {base.name_or_path} or is damaged ({reason:.300}); copy it anew, or name "
            "the base model that it was trained on in its adapter_config.json"
        ) from error
    check_values(get_peft_model_state_dict(model, save_embedding_layers=False), source)
    if asked is not None:
        strength_dial(model, named)(asked)
    return model


def check_trainable(source: str) -> None:
    """Refuse an adapter that cannot be trained further.

    Raises:
        UserError: If PEFT cannot train its method further, or it is at another strength than 1.
    """
    config, strength = adapter_config_of(source), strength_of(source)
    if strength != 1:
        raise UserError(
            f"adapter {source}: is at strength {strength:g}, and training goes on from 1; fold it into its base model "
            "first (ropo merge), or train it at @1"
        )
    if config.is_prompt_learning:
        kind: Any = config.peft_type
        raise UserError(
            f"adapter {source}: PEFT cannot train a {kind.value} adapter further; train a new one, or train another "
            "method further"
        )


def strength_of(source: str) -> float:
    """Return the strength that an adapter is named at, as in `DIR@0.5`, or else the one that it was saved with.

    Raises:
        UserError: If PEFT cannot read its configuration.
    """
    asked = split_strength(source)[1]
    return getattr(adapter_config_of(source), "strength", 1.0) if asked is None else asked


def adapter_base(source: str) -> str:
    """Return the base model that a complete adapter folder names.

    Raises:
        UserError: If it names none, or the folder has no weights.
    """
    base = adapter_config_of(source).base_model_name_or_path
    source, _ = split_strength(source)
    if not base:
        raise UserError(f"adapter {source}: adapter_config.json names no base model; set base_model_name_or_path")
    if not any((Path(source) / f"adapter_model.{suffix}").is_file() for suffix in ("safetensors", "bin")):
        raise UserError(f"adapter {source}: the folder has no weights (adapter_model.safetensors); copy them there")
    return base


def adapter_config_of(source: str) -> PeftConfig:
    """Read the configuration of an adapter folder.

    Raises:
        UserError: If PEFT cannot read it.
    """
    folder, _ = split_strength(source)
    try:
        return PeftConfig.from_pretrained(folder)
    except Exception as error:  # PEFT trips over a damaged or foreign file in any way there is
        raise UserError(
            f"adapter {source}: its adapter_config.json cannot be read ({reason_of(error)}); copy it anew"
        ) from error


def _resize_embeddings(base: PreTrainedModel, source: str) -> None:
    """Give the base model as many embeddings as an adapter brings along, which was trained with added tokens."""
    file = Path(source) / "adapter_model.safetensors"
    words = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
    names = {f"base_model.model.{name}.weight" for name, module in base.named_modules() if id(module) in words}
    try:
        with safe_open(file, "pt") as stored:
            rows = {stored.get_slice(name).get_shape()[0] for name in names & set(stored.keys())}
    except (OSError, SafetensorError):
        return  # PEFT says what is wrong
    if len(rows) == 1 and rows != {embedding_rows(base)}:
        base.resize_token_embeddings(rows.pop(), mean_resizing=False)


def base_model_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model without PEFT's wrapper."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation for the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
