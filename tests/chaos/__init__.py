"""Chaos: many runs, many clients, one random fault a second, and the proof that nothing was lost. `make chaos`."""
