"""Rows without padding, with every shared prompt once: their layout, their attention, a model that takes them."""
