"""Python's garbage collector in a process that serves many at once: while it looks at everything, everybody waits."""

import gc

YOUNG, MIDDLE, ALL = 2000, 10, 50
"""It looks at what is new when there are so many containers more than before, and at everything after 500 times of
that: a million, which some three thousand streams are made of. By Python's own numbers it does after 70,000: with 200
runs that takes 60 to 150 ms (seen), in which no event moves."""


def settle() -> None:
    """The process is ready to serve: what it is made of stays to its end, and need not be looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, ALL)
