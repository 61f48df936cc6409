"""Load causal language models and tokenizers from a hub id, a folder, a `.gguf` file or a PEFT adapter folder."""

from __future__ import annotations

__all__ = ["load_model", "load_policy", "load_shapes", "load_tokenizer"]

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ropo.core.errors import UserError
from ropo.core.hub import hub_reason, no_answer, tell_asking
from ropo.lm.adapters import adapter_base, adapter_config_of, is_adapter, load_adapter
from ropo.lm.checkpoint_checks import (
    check_checkpoint,
    check_kind,
    check_source,
    check_tokenizer,
    check_weights,
    reason_of,
)
from ropo.lm.gguf import load_gguf_config, load_gguf_model, load_gguf_tokenizer, plain_model
from ropo.lm.strength import split_strength


def load_model(
    source: str, dtype: torch.dtype | None = None, trust_remote_code: bool = False, bits: int | None = None
) -> PreTrainedModel:
    """Load a causal language model without adapters.

    Args:
        source: Hub id, local folder, or path of a `.gguf` file.
        dtype: Dtype of the weights; None keeps the checkpoint's own (float32 for GGUF files).
        trust_remote_code: Whether code that ships with the checkpoint may run.
        bits: 4 or 8 to quantise its linear layers with bitsandbytes; None leaves them as they are.

    Returns:
        The model in evaluation mode, on the CPU; quantised, on the GPU if there is one.

    Raises:
        UserError: If a local path exists but holds no weights or no configuration, or the hub does not answer; or
            bitsandbytes is missing.

    Cost: one read of the checkpoint; of a GGUF file the first time a conversion, see `ropo.lm.gguf`.
    """
    path = Path(source)
    quantisation = {} if bits is None else _quantisation(source, bits, dtype)
    check_source(source)
    if path.suffix == ".gguf":
        return load_gguf_model(path, dtype or torch.float32)
    if is_adapter(source):
        raise UserError(f"model {source}: is a PEFT adapter, not a model; name its base model, or merge it first")
    if path.is_dir():
        check_checkpoint(path)
    options: dict[str, Any] = {"dtype": dtype or "auto", "trust_remote_code": trust_remote_code, **quantisation}
    # Mismatches are let pass here, and named below: transformers would only point at a table that is not shown.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = _from_pretrained(AutoModelForCausalLM, source, **options)
    check_kind(source, model.config.architectures)
    check_weights(source, found)
    return model


def load_shapes(source: str, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
    """Make a model of the same shapes on the meta device: no weight is read.

    Args:
        source: As in `load_model`, or an adapter, whose base model is made.
        dtype: As in `load_model`.
        trust_remote_code: As in `load_model`.

    Raises:
        UserError: As in `load_model`.
    """
    if is_adapter(source):
        return load_shapes(adapter_base(source), dtype, trust_remote_code)
    path = Path(source)
    if path.suffix == ".gguf":
        check_source(source)
        config = load_gguf_config(path)
        dtype = dtype or torch.float32
    else:
        config = _from_pretrained(AutoConfig, source, trust_remote_code=trust_remote_code)
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    with _telling_of_others(source, "model", trust_remote_code), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def load_policy(source: str, dtype: torch.dtype | None = None) -> PreTrainedModel | PeftModel:
    """Load a model, or an adapter on top of the base model that it names.

    Args:
        source: Whatever `load_model` takes, or a PEFT adapter folder (any PEFT method), also at a strength, as in
            `DIR@0.5`.
        dtype: As in `load_model`, for the base model.

    Returns:
        A plain model, or a `PeftModel` in inference mode.
    """
    if not is_adapter(source):
        return load_model(source, dtype)
    return load_adapter(load_model(adapter_base(source), dtype), source)


def load_tokenizer(source: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model, a `.gguf` file or an adapter folder.

    Raises:
        UserError: If none is found there.
    """
    source, _ = split_strength(source)
    path = Path(source)
    check_source(source)
    if path.suffix == ".gguf":
        tokenizer = load_gguf_tokenizer(path)
    elif is_adapter(source) and not (path / "tokenizer_config.json").is_file():
        return load_tokenizer(str(adapter_config_of(source).base_model_name_or_path), trust_remote_code)
    else:
        if path.is_dir():
            check_tokenizer(path)
        tokenizer = _from_pretrained(AutoTokenizer, source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def dequantised(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with plain weights: quantised once more, they would lose part of an adapter merged into them.

    Args:
        model: Any model; a quantised one is used up.

    Returns:
        The model itself where it is not quantised, else a new one in float32.

    Raises:
        UserError: If transformers cannot dequantise weights of its kind.

    Cost: both models at once, for a moment.
    """
    if not getattr(model, "is_quantized", False):
        return model
    kind = model.config.quantization_config.quant_method.value
    try:
        plain = model.dequantize(torch.float32)
    except NotImplementedError as error:
        raise UserError(
            f"model {model.name_or_path}: its weights are quantised with {kind}, which transformers cannot undo; set "
            "base_model_name_or_path in adapter_config.json to the model that was quantised"
        ) from error
    return plain_model(plain, torch.float32)


def _quantisation(source: str, bits: int, dtype: torch.dtype | None) -> dict[str, Any]:
    """Return what makes transformers quantise a model, as `trl.ModelConfig` has it: NF4, products in `dtype`."""
    if find_spec("bitsandbytes") is None:
        raise UserError(f"load_in_{bits}bit: needs bitsandbytes, which is not installed; pip install bitsandbytes")
    if Path(source).suffix == ".gguf":
        raise UserError(
            f"load_in_{bits}bit: {source} is quantised already, and is trained with its weights written out; "
            "give the folder or hub id of the model itself"
        )
    on_gpu = torch.cuda.is_available()
    products = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": products}
    config = BitsAndBytesConfig(**(four if bits == 4 else {"load_in_8bit": True}))
    device = torch.cuda.current_device() if on_gpu else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def _from_pretrained(loader: Any, source: str, **options: Any) -> Any:
    if not Path(source).exists():
        tell_asking("model", source)
    what = "tokenizer" if loader is AutoTokenizer else "model"
    with _telling_of_others(source, what, options.get("trust_remote_code", False)):
        return loader.from_pretrained(source, **options)


@contextmanager
def _telling_of_others(source: str, what: str, trust_remote_code: bool) -> Iterator[None]:
    """Say in one line why transformers cannot make a model or tokenizer."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # damaged files, foreign models and a missing hub raise a dozen unrelated types
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {source}: brings code of its own, which is not run unless asked for; read it, then add "
                "--trust_remote_code (trust_remote_code=True)"
            ) from error
        if not no_answer(error) and _is_encoder_decoder(source, trust_remote_code):
            raise UserError(
                f"model {source}: is an encoder-decoder model, such as T5, and answers here come from "
                "decoders alone; give a causal language model"
            ) from error
        if Path(source).is_dir():
            raise UserError(
                f"model {source}: its {what} cannot be loaded ({reason_of(error)}); copy its files anew, or "
                "give another model"
            ) from error
        raise UserError(
            f"model {source}: is no folder here, and no {what} of that name came from the hub ({hub_reason(error)}); "
            "check the name and the network, or give a folder or a .gguf file"
        ) from error


def _is_encoder_decoder(source: str, trust_remote_code: bool) -> bool:
    """Tell whether what cannot be loaded is a model of another kind."""
    try:
        return bool(AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code).is_encoder_decoder)
    except Exception:  # then it is something else that is wrong
        return False
