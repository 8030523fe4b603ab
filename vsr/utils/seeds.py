"""Seeds as pure functions of where in the run one is."""

import numpy as np


def derive_seed(*numbers: int) -> int:
    """Hash non-negative ``numbers``, (seed, step, rank) say, into one seed below 2**63."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
