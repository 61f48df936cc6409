"""Load causal language models and tokenizers from a hub id, a folder, a `.gguf` file or a PEFT adapter folder."""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
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
from ropo.lm.adapter_values import check_values
from ropo.lm.gguf import load_gguf_model, load_gguf_tokenizer, plain_model, telling_of_bad_files
from ropo.lm.limits import embedding_rows
from ropo.lm.strength import ADAPTER_CONFIG, split_strength, strength_dial

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.gguf")
_OTHER_HEADS = re.compile(
    r"For(Sequence|Token)Classification|ForQuestionAnswering|ForMultipleChoice|ForMaskedLM|Reward"
)
_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth")


def is_adapter(source: str) -> bool:
    """Tell whether `source` is a local PEFT adapter folder, or one at a strength, as in `DIR@0.5`.

    Raises:
        UserError: If it names a strength, and this is none or the folder no adapter.
    """
    return (Path(split_strength(source)[0]) / ADAPTER_CONFIG).is_file()


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
        _check_checkpoint(path)
    options: dict[str, Any] = {"dtype": dtype or "auto", "trust_remote_code": trust_remote_code, **quantisation}
    # Mismatches are let pass here, and named below: transformers would only point at a table that is not shown.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = _from_pretrained(AutoModelForCausalLM, source, **options)
    _check_kind(source, model.config.architectures)
    _check_weights(source, found)
    return model


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
        with telling_of_bad_files(path):
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        dtype = dtype or torch.float32
    else:
        config = _from_pretrained(AutoConfig, source, trust_remote_code=trust_remote_code)
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


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
            _check_tokenizer(path)
        tokenizer = _from_pretrained(AutoTokenizer, source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    source: str, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> PreTrainedModel | PeftModel:
    """Load a model, or an adapter on top of the base model that it names.

    Args:
        source: Whatever `load_model` takes, or a PEFT adapter folder (any PEFT method), also at a strength, as in
            `DIR@0.5`.
        dtype: As in `load_model`, for the base model.
        trust_remote_code: As in `load_model`.

    Returns:
        A plain model, or a `PeftModel` in inference mode.
    """
    if not is_adapter(source):
        return load_model(source, dtype, trust_remote_code)
    return load_adapter(load_model(adapter_base(source), dtype, trust_remote_code), source)


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
            f"adapter {source}: its adapter_config.json cannot be read ({_reason(error)}); copy it anew"
        ) from error


def check_source(source: str) -> None:
    """Refuse what can neither be a place on this machine nor a hub id.

    Raises:
        UserError: If it is empty, a path to nothing, or a file of another kind.
    """
    path = Path(source)
    if not source.strip():
        raise UserError("model: is named by nothing; give a hub id, a folder or a .gguf file")
    if path.is_file() and path.suffix != ".gguf":
        raise UserError(
            f"model {source}: is neither a folder nor a .gguf file; give a hub id, a folder or a .gguf file"
        )
    is_path = path.is_absolute() or source.startswith((".", "~")) or len(path.parts) > 2 or path.suffix in _SUFFIXES
    if is_path and not path.exists():
        raise UserError(f"model {source}: no such file or folder; check the path")


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


def _from_pretrained(loader: Any, source: str, **options: Any) -> Any:
    if not Path(source).exists():
        tell_asking("model", source)
    try:
        return loader.from_pretrained(source, **options)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # damaged files, foreign models and a missing hub raise a dozen unrelated types
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {source}: brings code of its own, which is not run unless asked for; read it, then add "
                "--trust_remote_code (trust_remote_code=True)"
            ) from error
        if not no_answer(error) and _is_encoder_decoder(source, options):
            raise UserError(
                f"model {source}: is an encoder-decoder model, such as T5, and answers here come from "
                "decoders alone; give a causal language model"
            ) from error
        what = "tokenizer" if loader is AutoTokenizer else "model"
        if Path(source).is_dir():
            raise UserError(
                f"model {source}: its {what} cannot be loaded ({_reason(error)}); copy its files anew, or give another "
                "model"
            ) from error
        raise UserError(
            f"model {source}: is no folder here, and no {what} of that name came from the hub ({hub_reason(error)}); "
            "check the name and the network, or give a folder or a .gguf file"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first = lines[0] if len(lines[0]) > 40 else " ".join(line.strip() for line in lines)
    return f"{first:.200}"


def _check_checkpoint(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise UserError(f"model {path}: the folder has no config.json; give the folder of a transformers checkpoint")
    if not any(file for pattern in WEIGHT_PATTERNS for file in path.glob(pattern)):
        raise UserError(f"model {path}: the folder has no weights (*.safetensors); copy them there or give a hub id")


def _check_tokenizer(path: Path) -> None:
    if not any(path.iterdir()):
        raise UserError(f"model {path}: the folder is empty; give the folder of a transformers checkpoint")
    names = [file.name for file in path.iterdir()]
    if not any("token" in name or name.startswith(("vocab", "spiece", "tekken")) for name in names):
        raise UserError(
            f"model {path}: the folder has no tokenizer (tokenizer.json, tokenizer_config.json); copy it there from "
            "the model that it was made of"
        )


def _check_kind(source: str, architectures: list[str] | None) -> None:
    """Refuse a model with another head than a language model's, which would get a random one."""
    other = next((name for name in architectures or () if _OTHER_HEADS.search(name)), None)
    if other is not None:
        raise UserError(
            f"model {source}: is a {other}, which scores or fills in texts and cannot write them; give a causal "
            "language model (a reward model is a judge: --judge reward:MODEL)"
        )


def _is_encoder_decoder(source: str, options: dict[str, Any]) -> bool:
    """Tell whether what cannot be loaded is a model of another kind."""
    remote = options.get("trust_remote_code", False)
    try:
        return bool(AutoConfig.from_pretrained(source, trust_remote_code=remote).is_encoder_decoder)
    except Exception:  # then it is something else that is wrong
        return False


def _check_weights(source: str, found: dict[str, Any]) -> None:
    """Refuse a model part of whose weights would be random, as its files lack them or have them in other shapes."""
    missing, others = sorted(found["missing_keys"]), sorted(found["mismatched_keys"])
    if missing:
        raise UserError(
            f"model {source}: its files lack {len(missing)} of the weights that config.json asks for, such as "
            f"{missing[0]}; copy them anew, or give the whole model"
        )
    if others:
        name, stored, asked = others[0]
        raise UserError(
            f"model {source}: its files do not fit its config.json: {name} is {tuple(stored)} and should be "
            f"{tuple(asked)}; copy both anew"
        )
