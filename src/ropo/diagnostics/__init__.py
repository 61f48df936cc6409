"""Numbers from weights, log-probs and answers that show reward hacking and forgetting."""

from ropo.core.chance import chance_of_rise
from ropo.diagnostics.answers import Generation, measure_answers
from ropo.diagnostics.behaviour import estimate_kl, measure_behaviour
from ropo.diagnostics.collapse import cosine_distribution, effective_rank, isotropy
from ropo.diagnostics.energy import hyperspherical_energy, sampled_energy
from ropo.diagnostics.layers import layer_weight, linear_layers
from ropo.diagnostics.movement import cosine_changes, neuron_movement, orthogonality_error, rotation_size
from ropo.diagnostics.report import DiagnosticReport
from ropo.diagnostics.signals import SIGNALS, Reading, Signal, triggered
from ropo.diagnostics.text import distinct, expectation_adjusted_distinct, repetition, self_bleu
from ropo.diagnostics.weights import measure_change, measure_layer, measure_weight
from ropo.lm.log_probs import answer_log_probs, text_loss

__all__ = [
    "SIGNALS",
    "DiagnosticReport",
    "Generation",
    "Reading",
    "Signal",
    "answer_log_probs",
    "chance_of_rise",
    "cosine_changes",
    "cosine_distribution",
    "distinct",
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
    "orthogonality_error",
    "repetition",
    "rotation_size",
    "sampled_energy",
    "self_bleu",
    "text_loss",
    "triggered",
]
