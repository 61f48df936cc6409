"""Batches without padding, with every shared prompt once: their layout, their attention and their collator."""
