"""The options of packed preference training."""

from __future__ import annotations

from dataclasses import dataclass

from trl import DPOConfig


@dataclass
class PreferenceConfig(DPOConfig):
    """Set the options of `PreferenceTrainer`: every option of `trl.DPOConfig`, and those of packing."""
