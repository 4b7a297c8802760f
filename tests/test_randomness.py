"""Draws depend on the seed and on what they are for, and on nothing else."""

import random

import numpy as np
import torch

from lib_lora_train.randomness import Randomness


def drawn(seed: int, *path: str | int) -> list[float]:
    return torch.randn(4, generator=Randomness(seed).torch(*path)).tolist()


def test_the_same_path_draws_the_same():
    assert drawn(1, "noise", 5) == drawn(1, "noise", 5)
    first, second = (Randomness(1).numpy("order", 2).random(4).tolist() for _ in range(2))
    assert first == second


def test_what_was_drawn_before_does_not_matter():
    randomness = Randomness(1)
    torch.randn(100, generator=randomness.torch("noise", 4))
    assert torch.randn(4, generator=randomness.torch("noise", 5)).tolist() == drawn(1, "noise", 5)


def test_every_other_path_and_seed_draws_something_else():
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
    noise_sampler = [drawn(1, *path) for path in paths] + [drawn(2, "noise", 5)]
    assert len({tuple(draw) for draw in noise_sampler}) == len(noise_sampler)


def test_neighbouring_paths_are_uncorrelated():
    rows = np.stack([Randomness(0).numpy("noise", i).standard_normal(2000) for i in range(20)])
    off_diagonal = np.corrcoef(rows)[~np.eye(20, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / 2000**0.5


def test_the_hosts_own_generators_are_not_touched():
    before = (torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    drawn(1, "noise", 5)
    Randomness(1).numpy("order").random()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_draws_are_the_same_on_every_machine():
    """Written down once: a change here would make old runs impossible to resume."""
    assert Randomness(0).numpy("noise", 1).integers(0, 1_000_000, 3).tolist() == [855026, 134936, 527990]
