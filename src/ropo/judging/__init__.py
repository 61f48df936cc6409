"""Judges of answers: chat models, reward models, rules and functions, all behind `ropo.judging.judge.Judge`."""
