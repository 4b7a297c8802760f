"""What the prior is worth, on the trained miniature: the small version of benchmarks/bench_dreambooth.py.

No pictures are read here. What is learned shows in the loss on the stars, always with the same noise: how much it falls
where a star is called by its trigger, and how much where it is only called a shape, which nobody taught.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.bench_dreambooth import bare_stars, star_config
from lib_lora_train.adapters.file import load_adapter, take_over
from lib_lora_train.cli.commands import standalone_host
from lib_lora_train.dataset.images import load_image
from lib_lora_train.dataset.pixels import image_pixels
from lib_lora_train.model.conditioning import predict
from lib_lora_train.model.parts import Parts
from lib_lora_train.training.learning import make_adapter
from lib_lora_train.training.lessons import material_of
from lib_lora_train.training.run_folder import RunFolder
from lib_lora_train.training.session import train

SMALL = {"batch_size": 4, "repeats": 4, "rank": 8, "conv_rank": 0, "class_prompts": ["shape"], "preview_steps": 6, "lr_schedule": "constant"}
THING, CLASS = "sks shape", "shape"
TIMESTEPS = (300, 600, 850)
MEASURED = 6
"""Of the stars."""


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    return bare_stars(tmp_path_factory.mktemp("prior") / "stars")


def learned(config) -> dict[str, float]:
    """How much the loss on the stars falls under each name, from strength 0 to strength 1."""
    train(config, standalone_host(config.model))
    with standalone_host(config.model).lease() as lent:
        parts = Parts.of(lent, config.model)
        adapter = make_adapter(parts, config)
        take_over(adapter, load_adapter(RunFolder.at(config).final_file))
        with adapter.strength(0):
            before = star_losses(parts, config)
        after = star_losses(parts, config)
    return {name: before[name] - after[name] for name in before}


@torch.no_grad()
def star_losses(parts: Parts, config) -> dict[str, float]:
    lent, examples = parts.lent, material_of(config).dataset.training[:MEASURED]
    with lent.brought(parts.vae), lent.brought(parts.text_encoders):
        placements = [material_of(config)._plan().placement(example) for example in examples]
        pixels = torch.stack([image_pixels(load_image(e.path, e.path.read_bytes()).rgb, p, False) for e, p in zip(examples, placements, strict=True)])
        latents = parts.encode_pixels(pixels).chunk(2, dim=1)[0] * lent.family.latent_scale
        return {name: sum(_loss(parts, latents, name, t) for t in TIMESTEPS) / len(TIMESTEPS) for name in (THING, CLASS)}


def _loss(parts: Parts, latents: torch.Tensor, name: str, t: int) -> float:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(t))
    steps = torch.full((len(latents),), t)
    guess = predict(parts.unet, parts.schedule.add_noise(latents, noise, steps), steps, parts.text.encode([name] * len(latents)))
    return float((guess - noise).square().mean())


def test_what_is_learned_of_the_thing_leaks_into_its_class_less_than_half_as_much_as_without(stars):
    without = learned(star_config(stars.parent, stars, prior=False, **SMALL, epochs=1))
    prior = learned(star_config(stars.parent, stars, **{**SMALL, "class_images": 4, "epochs": 2}))
    assert without[CLASS] > 0.5 * without[THING] > 0
    assert prior[THING] > 0.8 * without[THING]
    assert prior[CLASS] / prior[THING] < 0.5 * without[CLASS] / without[THING]
