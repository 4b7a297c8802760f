"""DreamBooth's loss equals its equation, computed from the losses of its images one by one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib_lora_train.objectives.captioned import per_example
from lib_lora_train.objectives.dreambooth import DreamBooth
from tests.objectives.test_captioned import a_batch, objective

OWN, CLASS = SimpleNamespace(regularization=False), SimpleNamespace(regularization=True)


def dreambooth(**more: float) -> DreamBooth:
    return DreamBooth(**vars(objective()), **more)


def each_loss(plain, batch, index: int) -> list[float]:
    """The unweighted loss of every example."""
    latents = plain.latents(batch, index)
    noise, steps = plain.noise_sampler.noise(latents.shape, index), plain.noise_sampler.timesteps(len(latents), index)
    return per_example(
        *plain.predict(latents, batch.captions, noise, steps, batch.geometry), None, plain.config
    ).tolist()


@pytest.mark.parametrize(("index", "prior"), [(0, 0.8), (1, 0.65), (2, 0.5), (4, 0.2)])
def test_the_weight_of_class_images_falls_linearly_and_that_of_the_users_stays(index, prior):
    batch = replace(a_batch(4, weights=(1.0, 0.8, 1.0, 0.8)), examples=[OWN, CLASS, OWN, CLASS])
    a, b, c, d = each_loss(objective(), batch, index)
    expected = (a + prior * b + c + prior * d) / 4
    found = dreambooth(batches=5, final_prior_ratio=0.25).loss(batch, index)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_with_a_constant_prior_weight_the_loss_is_that_of_captioned_images():
    batch = replace(a_batch(2, weights=(1.0, 0.5)), examples=[OWN, CLASS])
    assert torch.equal(dreambooth(batches=9).loss(batch, 3), objective().loss(batch, 3))


def test_a_run_of_one_batch_uses_the_first_weight():
    batch = replace(a_batch(2, weights=(1.0, 0.5)), examples=[OWN, CLASS])
    assert torch.equal(dreambooth(batches=1, final_prior_ratio=0.0).loss(batch, 0), objective().loss(batch, 0))
