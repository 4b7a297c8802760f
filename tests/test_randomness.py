"""Random numbers depend on the seed and their path only."""

import random

import numpy as np
import torch

from lib_lora_train.randomness import Randomness


def numbers(seed: int, *path: str | int) -> list[float]:
    return torch.randn(4, generator=Randomness(seed).torch(*path)).tolist()


def test_the_same_path_gives_the_same_numbers():
    assert numbers(1, "noise", 5) == numbers(1, "noise", 5)
    first, second = (Randomness(1).numpy("order", 2).random(4).tolist() for _ in range(2))
    assert first == second


def test_numbers_before_do_not_matter():
    randomness = Randomness(1)
    torch.randn(100, generator=randomness.torch("noise", 4))
    assert torch.randn(4, generator=randomness.torch("noise", 5)).tolist() == numbers(1, "noise", 5)


def test_other_paths_and_seeds_give_other_numbers():
    paths = [
        ("noise", 5),
        ("noise", 6),
        ("noise", "5"),
        ("noise",),
        ("timesteps", 5),
        ("noise", 5, 0),
        ("noise5",),
        ("no", "ise", 5),
    ]
    all_numbers = [numbers(1, *path) for path in paths] + [numbers(2, "noise", 5)]
    assert len({tuple(row) for row in all_numbers}) == len(all_numbers)


def test_neighboring_paths_are_uncorrelated():
    rows = np.stack([Randomness(0).numpy("noise", i).standard_normal(2000) for i in range(20)])
    off_diagonal = np.corrcoef(rows)[~np.eye(20, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / 2000**0.5


def test_the_global_generators_are_not_used():
    before = (torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    numbers(1, "noise", 5)
    Randomness(1).numpy("order").random()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_numbers_are_the_same_on_every_machine():
    """Fixed values: after a change of them, old runs could not be resumed."""
    assert Randomness(0).numpy("noise", 1).integers(0, 1_000_000, 3).tolist() == [855026, 134936, 527990]
