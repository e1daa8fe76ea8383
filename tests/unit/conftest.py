"""How Hypothesis works in the unit tests: no timed assertions, and no folder left in the project."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=100, database=None)
settings.load_profile("unit")
