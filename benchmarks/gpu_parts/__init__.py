"""The parts of `benchmarks/gpu.py`, a module each: `cases(tiny)` gives their cases by name, most telling first."""
