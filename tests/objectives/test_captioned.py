"""The loss of captioned images equals its equation, computed in NumPy on a network of one line."""

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.batches import Batch
from lib_lora_train.distributed import Distributed
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.processes.ddpm import stable_diffusion_process
from lib_lora_train.objectives.captioned import Captioned, per_example
from lib_lora_train.objectives.noise_sampler import NoiseSampler
from lib_lora_train.randomness import Randomness
from tests.objectives.toys import SCALE, ToyDenoiser

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def a_batch(count: int = 3, masked: bool = False, weights: tuple[float, ...] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        examples=[None] * count,
        captions=["cat" * (i + 1) for i in range(count)],
        weights=torch.tensor(weights or [1.0] * count),
        geometry=ImageGeometry.uncropped(count, 64, 64),
        moments=torch.randn((count, 8, 8, 8), generator=generator).abs(),
        pixels=None,
        masks=torch.rand((count, 1, 8, 8), generator=generator) if masked else None,
    )


def objective(prediction: str = "epsilon", distributed: Distributed = Distributed(), **settings: object) -> Captioned:
    """On the base network: the adapter's strength is 0."""
    config, toy = ObjectiveConfig(**settings), ToyDenoiser(stable_diffusion_process(prediction), strength=0.0)
    noise_sampler = NoiseSampler(config, toy.process, Randomness(7), distributed)
    return Captioned(toy, toy.encode_text, config, noise_sampler, torch.device("cpu"))


def by_hand(batch: Batch, index: int, prediction: str, elementwise, weight) -> float:
    """The equation in float64, with the same random numbers."""
    noise_sampler = NoiseSampler(ObjectiveConfig(), stable_diffusion_process(), Randomness(7))
    mean, std = batch.moments.double().numpy()[:, :4], batch.moments.double().numpy()[:, 4:]
    x = (mean + std * noise_sampler.posterior(torch.Size(mean.shape), index).double().numpy()) * SCALE
    eps, t = (
        noise_sampler.noise(torch.Size(x.shape), index).double().numpy(),
        noise_sampler.timesteps(len(x), index).numpy(),
    )
    total = 0.0
    for i in range(len(x)):
        signal, sigma = ABAR[t[i]] ** 0.5, (1 - ABAR[t[i]]) ** 0.5
        goal = eps[i] if prediction == "epsilon" else signal * eps[i] - sigma * x[i]
        guess = 0.5 * (signal * x[i] + sigma * eps[i]) + t[i] / 1000 + len(batch.captions[i]) / 10
        loss = elementwise(guess - goal)
        if batch.masks is not None:
            loss = loss * batch.masks[i].double().numpy()
        total += loss.mean() * float(batch.weights[i]) * weight(ABAR[t[i]] / (1 - ABAR[t[i]]))
    return total / len(x)


def square(d: np.ndarray) -> np.ndarray:
    return d**2


def huber(d: np.ndarray) -> np.ndarray:
    return np.where(np.abs(d) < 0.1, d**2, 0.2 * np.abs(d) - 0.01)


WEIGHTS = {
    ("none", "epsilon"): lambda snr: 1.0,
    ("none", "v"): lambda snr: 1.0,
    ("min_snr", "epsilon"): lambda snr: min(snr, 5) / snr,
    ("min_snr", "v"): lambda snr: min(snr, 5) / (snr + 1),
    ("debiased", "epsilon"): lambda snr: min(snr, 1000) ** -0.5,
    ("debiased", "v"): lambda snr: 1 / (min(snr, 1000) + 1),
}


@pytest.mark.parametrize(("weighting", "prediction"), WEIGHTS)
@pytest.mark.parametrize(("loss", "elementwise"), [("mse", square), ("huber", huber)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_equals_its_equation(weighting, prediction, loss, elementwise, masked):
    batch = a_batch(masked=masked, weights=(1.0, 0.5, 2.0))
    ours = objective(prediction, loss_weighting=weighting, loss_type=loss).loss(batch, 4)
    expected = by_hand(batch, 4, prediction, elementwise, WEIGHTS[weighting, prediction])
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_a_black_mask_hides_all_of_the_loss_and_a_white_one_none():
    prediction, target = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    masks = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    assert per_example(prediction, target, masks, ObjectiveConfig()).tolist() == [0.0, 1.0]


def test_an_example_of_weight_0_does_not_count():
    one, none = a_batch(weights=(1.0, 0.0, 0.0)), a_batch(weights=(0.0, 0.0, 0.0))
    assert objective().loss(one, 0) > 0
    assert objective().loss(none, 0) == 0


def test_pixels_are_encoded_where_a_batch_has_no_moments():
    batch = a_batch()
    in_pixels = Batch(**{**vars(batch), "pixels": batch.moments, "moments": None})
    assert torch.equal(objective().loss(in_pixels, 2), objective().loss(batch, 2))


def test_latents_are_sampled_anew_at_each_index():
    batch = a_batch()
    first, again, other = (objective().latents(batch, index) for index in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_loss_depends_on_the_index_and_not_on_earlier_random_numbers():
    made, batch = objective(), a_batch()
    first = made.loss(batch, 5)
    made.loss(batch, 6)
    torch.randn(3)
    assert torch.equal(made.loss(batch, 5), first)
    assert not torch.equal(made.loss(batch, 6), first)


def test_two_processes_together_have_the_loss_of_one_with_the_doubled_batch():
    whole = a_batch(4, masked=True, weights=(1.0, 2.0, 3.0, 4.0))
    halves = [part_of(whole, rows) for rows in (slice(2), slice(2, 4))]
    losses = [objective(distributed=Distributed(rank, 2)).loss(half, 3).item() for rank, half in enumerate(halves)]
    assert sum(losses) / 2 == pytest.approx(objective().loss(whole, 3).item(), rel=1e-5)


def test_the_loss_uses_no_global_generator():
    before = torch.random.get_rng_state()
    objective(noise_offset=0.1, multires_noise_iterations=4).loss(a_batch(), 0)
    assert torch.equal(before, torch.random.get_rng_state())


def part_of(batch: Batch, rows: slice) -> Batch:
    values = {name: value for name, value in vars(batch).items() if name != "geometry"}
    parts = {name: None if value is None else value[rows] for name, value in values.items()}
    return Batch(**parts, geometry=batch.geometry.map(lambda tensor: tensor[rows]))


def test_the_network_gets_the_geometry_of_the_batch():
    made, batch = objective(), a_batch()
    made.loss(batch, 0)
    assert made.denoiser.geometries[0].target_sizes.tolist() == [[64, 64]] * 3


def test_a_vae_that_gives_nan_is_refused(complaint):
    batch = a_batch()
    pixels = Batch(**{**vars(batch), "pixels": torch.full_like(batch.moments, torch.nan), "moments": None})
    assert complaint(objective().loss, pixels, 0).startswith("The VAE encodes an image as NaN or infinity")
