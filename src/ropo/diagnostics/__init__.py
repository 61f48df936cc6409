"""Numbers from weights, log-probs and answers that show reward hacking and forgetting."""

from ropo.core.intervals import chance_of_rise
from ropo.diagnostics.comparison import HeldOut, compare, observe
from ropo.diagnostics.energy import hyperspherical_energy
from ropo.diagnostics.movement import neuron_movement
from ropo.diagnostics.report import DiagnosticReport
from ropo.diagnostics.signals import SIGNALS, Reading, Signal

__all__ = ["SIGNALS", "DiagnosticReport", "HeldOut", "Reading", "Signal"]
__all__ += ["chance_of_rise", "compare", "hyperspherical_energy", "neuron_movement", "observe"]
