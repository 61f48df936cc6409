"""Make on-policy preference pairs: sample answers, score them, and choose pairs."""

from ropo.pairs.make import Outcome, make_pairs
from ropo.pairs.selection import STRATEGIES, Candidate, Pair, Selection

__all__ = ["STRATEGIES", "Candidate", "Outcome", "Pair", "Selection", "make_pairs"]
