"""Checkpoints that are whole or visibly not, and hold nothing but safetensors and JSON."""
