"""The reference of an adapter's training: the policy as it was when training began, by values and not by names alone.

TRL's reference is the model with the adapter switched off or, where training continues from an adapter, a copy of it
named `ref`. It copies the parameters whose names hold `.default.`, which leaves out those of methods that end theirs
with the adapter's name (HRA), and knows nothing of initialisations that change the base model (PiSSA, OLoRA, LoftQ).
"""

from __future__ import annotations

__all__ = ()

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import is_peft_model
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import use_adapter

from ropo.core.errors import UserError
from ropo.lm.adapters import base_model_of, evaluating
from ropo.training.distributed.sharding import is_cut, without_deepspeed

logger = logging.getLogger(__name__)

_POLICY, _REFERENCE = "default", "ref"  # the names that TRL gives the two adapters
_SAME = (
    1e-3  # nats per token, in float32: an identity's rounding is below 1e-4, an odd reflection is off by 0.1 and more
)


def check_active(model: PeftModel) -> None:
    """Refuse an adapter that TRL would not take as the policy, or not as the reference.

    Raises:
        UserError: If another adapter than `default` is active, or several are.
    """
    active = model.active_adapters
    if active != [_POLICY]:
        raise UserError(
            f"model: its active adapter is {', '.join(map(repr, active)) or 'none'}, and TRL trains the one named "
            f"{_POLICY!r} and copies it as the reference; load it with adapter_name={_POLICY!r}, alone"
        )
    if _method(model) == "ADALORA":
        raise UserError(
            "model: PEFT gives a model no more than one AdaLoRA adapter, and its copy would be the reference; merge "
            "the adapter and start a new one, or pass ref_model"
        )


def has_adapter(model: Any) -> bool:
    """Tell whether the model that a trainer is given has an adapter; one that it is to load by its name has none."""
    return not isinstance(model, str) and is_peft_model(model)


class AdapterReference:
    """See to it that the reference of an adapter's training is the policy that it starts from.

    Args:
        model: The model that a trainer is given, or its name, before anything is done to it.
        probed: Whether the reference is to be that model.
        find_out: What looks at a model and tells all processes.

    Cost: a few forward passes over two dozen tokens.
    """

    def __init__(self, model: Any, probed: bool, find_out: Callable[[Callable[[], Any]], Any]) -> None:
        self._continued, self._find_out = has_adapter(model), find_out
        known = probed and not isinstance(model, str) and not is_cut(model)
        self._before = find_out(lambda: probe(model)) if known else None

    def complete(self, trainer: Any) -> None:
        """Complete the reference of a trainer whose model is made.

        Raises:
            UserError: If it is another policy, or gives no log-probs.
        """
        model = trainer.model
        if is_peft_model(model) and trainer.ref_model is None and not is_cut(model):
            if trainer.args.sync_ref_model:
                _add_reference(model)
            with torch.no_grad():  # what TRL has left out of the adapter's copy that is to be its reference
                for tensor, copy in copied_tensors(model):
                    copy.copy_(tensor)
            with without_deepspeed(trainer.args):
                self._find_out(lambda: _check_reference(model, self._before, self._continued))
                self._find_out(lambda: _check_scores(model))
        self._before = None


def _add_reference(model: PeftModel) -> None:
    """Put a frozen copy of the adapter beside it, as TRL does where training goes on from one."""
    if _REFERENCE in model.peft_config:
        return
    try:
        model.add_adapter(_REFERENCE, model.peft_config[_POLICY])
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(
            f"sync_ref_model: PEFT keeps no second {_method(model)} adapter to be the reference ({error}); leave it out"
        ) from error


def copied_tensors(model: PeftModel) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of the policy's adapter, each with its place in the copy; none where there is no copy."""
    if _REFERENCE not in model.peft_config:
        return []
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = ((tensor, tensors.get(_reference_name(name))) for name, tensor in tensors.items())
    return [(tensor, copy) for tensor, copy in found if copy is not None and copy is not tensor]


def _reference_name(name: str) -> str:
    """Return what a tensor of the policy's adapter is called in its copy."""
    return ".".join(_REFERENCE if part == _POLICY else part for part in name.split("."))


def probe(model: PreTrainedModel | PeftModel) -> Float[Tensor, "2 tokens vocabulary"]:
    """Return log-probs of two short sequences, by which two states of a model are told apart.

    Cost: one forward pass over two dozen tokens.
    """
    base = base_model_of(model)
    vocabulary = base.config.get_text_config().vocab_size
    ids = (torch.arange(24, device=base.device).view(2, 12) * 7 + 3) % vocabulary
    with torch.no_grad(), evaluating(model):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return output.logits[:, -12:].float().log_softmax(dim=-1)


def _check_reference(model: PeftModel, before: Float[Tensor, "2 tokens vocabulary"] | None, continued: bool) -> None:
    """Refuse training whose reference is not the policy that it starts from.

    Args:
        model: The adapted model, with the reference that it will be compared with.
        before: What `probe` gave for the model that was handed in, before anything was done to it; None if unknown.
        continued: Whether it had its adapter then.

    Raises:
        UserError: If the reference differs from the model that was handed in, or, for an adapter that is trained
            further, from the policy.
    """
    policy = probe(model)
    trained = {name: each.requires_grad for name, each in model.named_parameters()}
    with use_adapter(model, _REFERENCE if _REFERENCE in model.peft_config else None):
        reference = probe(model)
    for name, each in model.named_parameters():  # PEFT makes the adapter that it switches to trainable
        each.requires_grad_(trained[name])
    method = _method(model)
    if continued and before is not None and not _same(reference, before, model):
        how = getattr(model.peft_config[_POLICY], "init_lora_weights", True)
        why = f" (init_lora_weights={how!r} changes the base model)" if isinstance(how, str) else ""
        raise UserError(
            f"model: this {method} adapter cannot be trained further beside a copy of it, the reference: the copy is "
            f"not the same{why}; merge it (`ropo merge`) and train a new adapter on that, or pass ref_model"
        )
    if before is not None and not _same(reference, before, model):
        raise UserError(
            f"peft_config: with this {method} adapter the reference would not be the model that was given, which its "
            "initialisation or TRL's copy changes; give one that starts at the base model (init_lora_weights=True), "
            "merge the adapter first, or pass ref_model"
        )
    if _same(policy, reference, model):
        return
    off = (policy - reference).abs().max()
    if continued:
        raise UserError(
            f"model: the reference differs from this {method} adapter by up to {off:.2g} nats per token before any "
            "training; merge the adapter and start a new one, or pass ref_model"
        )
    logger.warning(
        f"the {method} adapter does not start at the model that it is put on: log-probs differ by up to {off:.2g} nats "
        "a token, and the reference is that model"
    )


def _check_scores(model: PeftModel) -> None:
    """Refuse an adapter that changes what the model returns (CPT), or its layers behind TRL's back (adaption prompts).

    Cost: one forward pass over two dozen tokens.
    """
    ids = torch.arange(24, device=model.device).view(2, 12) % 16
    try:
        with torch.no_grad(), evaluating(model):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True).log_probs  # noqa: B018
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an adapter's own forward may raise anything
        reason = " ".join(str(error).split())
        raise UserError(
            f"peft_config: a model with a {_method(model)} adapter gives no log-probs of answers ({reason:.160}); "
            "choose another method, such as RoPO or LoRA"
        ) from error


def unwrapped(trainer: Any) -> Any:
    """Return the policy without the wrappers of distributed training."""
    return trainer.accelerator.unwrap_model(trainer.model)


def keeps_reference(trainer: Any) -> bool:
    """Tell whether the reference that training began with can still be run once it has begun."""
    if getattr(trainer, "ref_model", None) is not None:
        return not trainer.args.sync_ref_model  # which moves it, and keeps no other
    return isinstance(unwrapped(trainer), PeftModel)


@contextmanager
def reference_of(trainer: Any) -> Iterator[Any]:
    """Give the reference that training began with: the reference model, the frozen adapter or base, or the policy.

    A fully trained model whose reference log-probs were computed in advance has no reference model: the policy at the
    start of training is it.
    """
    model = unwrapped(trainer)
    if getattr(trainer, "ref_model", None) is not None:
        yield trainer.accelerator.unwrap_model(trainer.ref_model)
    elif isinstance(model, PeftModel):
        moving = getattr(getattr(trainer, "remedies", None), "moving_reference", None)
        with (
            nullcontext() if moving is None else moving.at_start(),
            use_adapter(model, _REFERENCE if _REFERENCE in model.peft_config else None),
        ):
            yield model
    else:
        yield model


def _method(model: PeftModel) -> str:
    kind: Any = model.peft_config[model.active_adapter].peft_type
    return str(kind.value)


def _same(one: Tensor, other: Tensor, model: PeftModel) -> bool:
    base: Any = model.get_base_model()
    rounds = base.dtype not in (torch.float32, torch.float64) or getattr(base, "is_quantized", False)
    # The rounding of bfloat16 in a trained model's log-probs of -20 is 0.3. bitsandbytes computes one 4-bit product in
    # two ways, by the number of rows, which are 0.1 nats apart.
    tolerance = 0.5 if rounds else _SAME
    # A model may answer NaN here: `FiniteGuard` says so, with the records, if it does on them too.
    return bool(torch.allclose(one, other, atol=tolerance, rtol=0.0, equal_nan=True))
