"""Make on-policy preference pairs: sample answers, score them, and choose pairs."""

from ropo.pairs.make import MadePairs, make_pairs
from ropo.pairs.selection import STRATEGIES, Pair, ScoredAnswer, Selection

__all__ = ["STRATEGIES", "MadePairs", "Pair", "ScoredAnswer", "Selection", "make_pairs"]
