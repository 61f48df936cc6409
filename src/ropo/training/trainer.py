"""Preference training on any adapter, or on every weight."""

from __future__ import annotations

from trl import DPOTrainer


class PreferenceTrainer(DPOTrainer):
    """Train a causal language model on preference pairs with any loss of `trl.DPOTrainer`."""
