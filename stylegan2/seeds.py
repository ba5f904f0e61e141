"""Random numbers that depend on all bits of a seed.

A seed is a whole number from 0 to 2^63 - 1 (`stylegan2.settings.check_seed`). PyTorch takes as many bits, but
its CPU generator, a Mersenne twister, uses the lowest 32 of them: 7 and 7 + 2^32 would give the same numbers.
"""

import numpy as np
import torch

from stylegan2.settings import check_seed

_TWISTER_BITS = 32
_STATE = slice(3, 3 + 624)  # where the twister's words lie in the state of a CPU generator, as uint64


def seed_generator(seed: int) -> torch.Generator:
    """A CPU generator whose numbers depend on all bits of `seed`. Raises ValueError for what is no seed.

    Below 2^32 it is `torch.Generator().manual_seed(seed)`.

    Example:
        >>> first, second = (torch.rand(1, generator=seed_generator(seed)) for seed in (7, 7 + 2**32))
        >>> bool(first == second)
        False
    """
    check_seed(seed)
    random = torch.Generator().manual_seed(seed)
    if seed >> _TWISTER_BITS:
        fill_twister(random, (seed,))
    return random


def seed_torch(seed: int) -> None:
    """`torch.manual_seed` with all bits of `seed`, on all devices. Raises ValueError for what is no seed."""
    check_seed(seed)
    torch.manual_seed(seed)
    if seed >> _TWISTER_BITS:
        fill_twister(torch.default_generator, (seed,))


def fill_twister(random: torch.Generator, numbers: tuple[int, ...]) -> None:
    """Set the whole state of a CPU generator, which was just seeded, from numbers of 64 bits.

    NumPy's twister, of the same design, spreads any number of words over its state ("init_by_array" of
    Matsumoto and Nishimura, 2002).
    """
    words = [(number >> shift) % 2**32 for number in numbers for shift in (0, 32)]
    key = np.random.RandomState(words).get_state(legacy=False)["state"]["key"]
    state = random.get_state().numpy().copy()
    whole = len(state) // 8 * 8
    state[:whole].view(np.uint64)[_STATE] = key
    random.set_state(torch.from_numpy(state))
