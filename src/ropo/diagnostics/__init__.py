"""Numbers from weights, log-probs and answers that show reward hacking and forgetting."""

from ropo.core.intervals import chance_of_rise
from ropo.diagnostics.answers import distinct, expectation_adjusted_distinct, measure_answers, repetition, self_bleu
from ropo.diagnostics.behaviour import dpo_margins, estimate_kl, measure_behaviour
from ropo.diagnostics.collapse import cosine_distribution, effective_rank, isotropy
from ropo.diagnostics.comparison import HeldOut, PolicyComparison, compare, observe, sampled_kl
from ropo.diagnostics.energy import hyperspherical_energy, sampled_energy
from ropo.diagnostics.layers import layer_weight, linear_layers
from ropo.diagnostics.movement import cosine_changes, neuron_movement, orthogonality_error, rotation_size
from ropo.diagnostics.report import DiagnosticReport
from ropo.diagnostics.signals import SIGNALS, Reading, Signal, triggered
from ropo.diagnostics.weights import measure_change, measure_layer, measure_weight

__all__ = [
    "SIGNALS",
    "DiagnosticReport",
    "HeldOut",
    "PolicyComparison",
    "Reading",
    "Signal",
    "chance_of_rise",
    "compare",
    "cosine_changes",
    "cosine_distribution",
    "distinct",
    "dpo_margins",
    "effective_rank",
    "estimate_kl",
    "expectation_adjusted_distinct",
    "hyperspherical_energy",
    "isotropy",
    "layer_weight",
    "linear_layers",
    "measure_answers",
    "measure_behaviour",
    "measure_change",
    "measure_layer",
    "measure_weight",
    "neuron_movement",
    "observe",
    "orthogonality_error",
    "repetition",
    "rotation_size",
    "sampled_energy",
    "sampled_kl",
    "self_bleu",
    "triggered",
]
