"""The loss of captioned images, held to the equation worked out in NumPy on a network of one line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_lora_train.config import ObjectiveConfig
from lib_lora_train.dataset.batches import Batch
from lib_lora_train.model.conditioning import Conditioning
from lib_lora_train.model.noise import stable_diffusion_schedule
from lib_lora_train.objectives.captioned import Captioned, per_example
from lib_lora_train.objectives.noise_sampler import Distributed, NoiseSampler
from lib_lora_train.randomness import Randomness

SCALE = 0.18215
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def a_batch(count: int = 3, masked: bool = False, weights: tuple[float, ...] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.full((count, 2), 64)
    return Batch(
        examples=[None] * count,
        captions=["cat" * (i + 1) for i in range(count)],
        weights=torch.tensor(weights or [1.0] * count),
        original_sizes=sizes,
        crops=sizes * 0,
        target_sizes=sizes,
        moments=torch.randn((count, 8, 8, 8), generator=generator).abs(),
        pixels=None,
        masks=torch.rand((count, 1, 8, 8), generator=generator) if masked else None,
    )


def text_features(captions) -> Conditioning:
    return Conditioning(torch.tensor([[[float(len(caption))]] for caption in captions]))


def network(noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor):
    return SimpleNamespace(sample=0.5 * noisy + timesteps.view(-1, 1, 1, 1) / 1000 + 0.01 * context.view(-1, 1, 1, 1))


def objective(prediction: str = "epsilon", distributed: Distributed = Distributed(), **settings: object) -> Captioned:
    config = ObjectiveConfig(**settings)
    return Captioned(
        network,
        text_features,
        lambda pixels: pixels,
        stable_diffusion_schedule(prediction),
        SCALE,
        config,
        NoiseSampler(config, Randomness(7), distributed),
        torch.device("cpu"),
    )


def by_hand(batch: Batch, index: int, prediction: str, elementwise, weight) -> float:
    """The equation in float64, with the same draws."""
    noise_sampler = NoiseSampler(ObjectiveConfig(), Randomness(7))
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
        guess = 0.5 * (signal * x[i] + sigma * eps[i]) + t[i] / 1000 + 0.01 * len(batch.captions[i])
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
def test_loss_is_the_equations(weighting, prediction, loss, elementwise, masked):
    batch = a_batch(masked=masked, weights=(1.0, 0.5, 2.0))
    ours = objective(prediction, loss_weighting=weighting, loss_type=loss).loss(batch, 4)
    expected = by_hand(batch, 4, prediction, elementwise, WEIGHTS[weighting, prediction])
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_a_black_mask_learns_nothing_and_a_white_one_everything():
    prediction, target = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    masks = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    assert per_example(prediction, target, masks, ObjectiveConfig()).tolist() == [0.0, 1.0]


def test_an_example_of_weight_0_does_not_count():
    one, none = a_batch(weights=(1.0, 0.0, 0.0)), a_batch(weights=(0.0, 0.0, 0.0))
    assert objective().loss(one, 0) > 0
    assert objective().loss(none, 0) == 0


def test_pixels_are_encoded_where_there_are_no_moments():
    batch = a_batch()
    in_pixels = Batch(**{**vars(batch), "pixels": batch.moments, "moments": None})
    assert torch.equal(objective().loss(in_pixels, 2), objective().loss(batch, 2))


def test_latents_are_drawn_anew_at_each_index():
    batch = a_batch()
    first, again, other = (objective().latents(batch, index) for index in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loss_depends_on_the_index_alone_and_not_on_what_was_drawn_before():
    made, batch = objective(), a_batch()
    first = made.loss(batch, 5)
    made.loss(batch, 6)
    torch.randn(3)
    assert torch.equal(made.loss(batch, 5), first)
    assert not torch.equal(made.loss(batch, 6), first)


def test_two_processes_together_have_the_loss_of_one_with_the_doubled_batch():
    whole = a_batch(4, masked=True, weights=(1.0, 2.0, 3.0, 4.0))
    halves = [
        Batch(**{name: value if value is None else value[rows] for name, value in vars(whole).items()})
        for rows in (slice(2), slice(2, 4))
    ]
    losses = [objective(distributed=Distributed(rank, 2)).loss(half, 3).item() for rank, half in enumerate(halves)]
    assert sum(losses) / 2 == pytest.approx(objective().loss(whole, 3).item(), rel=1e-5)


def test_loss_touches_no_global_generator():
    before = torch.random.get_rng_state()
    objective(noise_offset=0.1, multires_noise_iterations=4).loss(a_batch(), 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_loss_is_float32_where_the_network_computes_in_less():
    made = objective()
    made.unet = lambda *inputs: SimpleNamespace(sample=network(*inputs).sample.bfloat16())
    assert made.loss(a_batch(), 0).dtype == torch.float32
