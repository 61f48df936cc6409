"""Keep the libraries' own bars and notices out of the output."""

from __future__ import annotations

__all__ = ()

import os
import warnings
from functools import partial


def quiet_libraries() -> None:
    """Silence loading bars, informational logs, future warnings and telemetry of the libraries that a command uses."""
    import datasets
    import huggingface_hub
    import transformers
    from tqdm import tqdm
    from transformers import modeling_gguf_pytorch_utils

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # read from the environment when it was imported
    huggingface_hub.logging.set_verbosity_error()  # without network it tells of every retry before we say what is wrong
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = partial(tqdm, disable=True)
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nobody writes to it
    warnings.filterwarnings("ignore", message="Could not find a config file in .*gguf")  # peft looks for new words
