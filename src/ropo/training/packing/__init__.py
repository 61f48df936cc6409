"""A trainer's batches as packs: their collator, and TRL's fused LM head on them."""
