"""RoPO: preference-tune language models by rotating their weights."""
