"""What to try against a warning: one or two flags of `ropo train`, and the number that chose them."""

from __future__ import annotations

__all__ = ["advise"]

from collections.abc import Callable, Mapping

from ropo.diagnostics.signals import Reading

# Chosen, not fitted: where a policy's own answers are this many nats per token from its reference, the run went far,
# and ending it sooner comes before changing its loss; and length explains a reward from this correlation on.
FAR, BY_LENGTH = 0.1, 0.2
_HELD_UP = "--rpo_alpha 1 with half the --learning_rate"  # and more steps: docs/remedies.md, Measured

Numbers = Mapping[str, float]


def advise(name: str, readings: Mapping[str, Reading]) -> str:
    """Say what to try against a warning; docs/remedies.md has a section for each.

    Args:
        name: The warning's, in `ropo.diagnostics.signals.SIGNALS`.
        readings: Everything that was measured.

    Returns:
        The end of the warning's sentence; nothing for a warning of somebody else.
    """
    rule = _RULES.get(name)
    if rule is None:
        return ""
    flags, why = rule({each: reading.value for each, reading in readings.items()})
    return f"; try {flags} ({why})"


def _displacement(numbers: Numbers) -> tuple[str, str]:
    chosen, rejected = numbers["chosen_change_per_token"], numbers["rejected_change_per_token"]
    both = f"chosen {chosen:+.2f}, rejected {rejected:+.2f} nats per token"
    if rejected < chosen:
        return _HELD_UP, f"{both}: the chosen answers pay for the margin"
    return f"a lower --learning_rate or {_budget(numbers)}", f"{both}: no margin is gained by it"


def _rejected_collapse(numbers: Numbers) -> tuple[str, str]:
    chosen = numbers["chosen_change_per_token"]
    if chosen < 0:
        return _HELD_UP, f"chosen {chosen:+.2f} nats per token: both are pushed down"
    smoothed = "--loss_type cdpo --label_smoothing 0.1"
    return f"{smoothed} or --loss_type ipo", f"chosen {chosen:+.2f} nats per token: the margin has no end"


def _length_growth(numbers: Numbers) -> tuple[str, str]:
    correlation = numbers.get("length_reward_correlation")
    if correlation is not None and correlation < BY_LENGTH:
        why = f"reward and length correlate by {correlation:+.2f}: it is not what the pairs reward"
        return f"--rpo_alpha 1 or {_budget(numbers)}", why
    known = "" if correlation is None else f", reward and length correlate by {correlation:+.2f}"
    return "--rpo_alpha 1 or --rdpo_alpha 0.01", f"{numbers['length_ratio']:.2f} times as long{known}"


def _repetition(numbers: Numbers) -> tuple[str, str]:
    kl, correlation = numbers.get("kl_per_token"), numbers.get("length_reward_correlation")
    if correlation is not None and correlation >= BY_LENGTH:
        why = f"reward and length correlate by {correlation:+.2f}: a second copy makes an answer longer"
        return "--loss_type sigmoid_norm --beta 5", why
    if kl is not None and kl > FAR:
        return f"{_budget(numbers)} or a lower --learning_rate", f"KL {kl:.3g} nats per token: it went far"
    why = "no KL was measured" if kl is None else f"KL {kl:.3g} nats per token: it did not go far"
    return "--rpo_alpha 1 or --ema_decay 0.95", why


def _forgetting(numbers: Numbers) -> tuple[str, str]:
    rise, kl = numbers["text_loss_rise"], numbers.get("kl_per_token")
    sooner = "" if kl is None or kl <= FAR else f" or {_budget(numbers)}"
    known = "" if kl is None else f", KL {kl:.3g} nats per token"
    return f"--anchor_text FILE{sooner}", f"{rise:+.2f} nats per token on plain text{known}"


def _neuron_collapse(numbers: Numbers) -> tuple[str, str]:
    why = f"{numbers['collapsed_pairs']:.0f} pairs, and a rotation keeps every angle"
    return "--method ropo or a lower --learning_rate", why


def _budget(numbers: Numbers) -> str:
    """Return the flag that ends a run at half of its divergence, or at a usual one where that is not known."""
    kl = numbers.get("kl_per_token")
    return f"--stop_at_kl {FAR if kl is None or kl <= 0 else kl / 2:.1g}"


_RULES: dict[str, Callable[[Numbers], tuple[str, str]]] = {
    "rejected_collapse": _rejected_collapse,
    "displacement": _displacement,
    "length_growth": _length_growth,
    "repetition": _repetition,
    "neuron_collapse": _neuron_collapse,
    "forgetting": _forgetting,
}
