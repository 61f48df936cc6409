"""Numbers from weights, log-probs and answers that show reward hacking and forgetting."""

from ropo.diagnostics.energy import hyperspherical_energy, sampled_energy

__all__ = ["hyperspherical_energy", "sampled_energy"]
