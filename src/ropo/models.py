"""Load causal language models and tokenizers: the public names of `ropo.lm.loading`."""

from ropo.lm.loading import load_model, load_tokenizer

__all__ = ["load_model", "load_tokenizer"]
