"""The SDXL variant's UNet and its conditioning during distillation."""

from types import SimpleNamespace

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from tools.checkpoints.train_denoiser import all_captions
from tools.checkpoints.xl_unet import XL_UNET_CONFIG, XLPredictions, plain_time_ids, random_time_ids


class FakeTexts:
    """Encodes caption i as i + 1."""

    def encode(self, prompts):
        numbers = torch.arange(1.0, len(prompts) + 1)
        return numbers[:, None, None].expand(-1, 77, 96), numbers[:, None].expand(-1, 32)


def conditioning(captions):
    """What the UNet gets for these captions: context, pooled text and time ids."""
    calls = []

    def unet(noisy, timesteps, context, added_cond_kwargs):
        calls.append((context, added_cond_kwargs["text_embeds"], added_cond_kwargs["time_ids"]))
        return SimpleNamespace(sample=noisy)

    XLPredictions(unet, FakeTexts(), seed=0)(torch.zeros(len(captions), 4, 8, 8), torch.zeros(len(captions)), captions)
    return calls[0]


def test_time_ids_are_size_crop_and_target_in_pixels():
    assert plain_time_ids(2, 64).tolist() == [[64, 64, 0, 0, 64, 64]] * 2


def test_most_training_images_have_the_plain_time_ids():
    ids = random_time_ids(np.random.default_rng(0), 1000)
    share = (ids == plain_time_ids(1)).all(dim=1).float().mean()
    assert 0.65 < share < 0.75
    assert ids.min() >= 0


def test_a_caption_is_its_features_and_its_pooled_text():
    captions = all_captions()[5:8]
    context, pooled, time_ids = conditioning(captions)
    assert context[:, 0, 0].tolist() == pooled[:, 0].tolist() == [6, 7, 8]
    assert time_ids.shape == (3, 6)


def test_an_empty_caption_is_zeros_half_of_the_time():
    context, pooled, _ = conditioning([""] * 400)
    zeros = (context == 0).all(dim=2).all(dim=1)
    assert torch.equal(zeros, (pooled == 0).all(dim=1))
    assert 0.4 < zeros.float().mean() < 0.6


def test_the_layout_is_that_of_sdxl():
    unet = UNet2DConditionModel(**XL_UNET_CONFIG)
    depths = [[len(a.transformer_blocks) for a in getattr(block, "attentions", [])] for block in unet.down_blocks]
    assert depths == [[], [1, 1], [2, 2]]
    assert len(unet.mid_block.attentions[0].transformer_blocks) == 2
    assert isinstance(unet.down_blocks[1].attentions[0].proj_in, torch.nn.Linear)
    assert unet.add_embedding.linear_1.in_features == 32 + 6 * 256
