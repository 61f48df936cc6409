"""Several processes: whose pairs, whose weights, whose gradients."""
