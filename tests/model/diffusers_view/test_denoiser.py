"""Stable Diffusion as a Denoiser: its process, its latents, and the layers an adapter attaches to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.image_geometry import ImageGeometry
from lib_lora_train.model.denoiser import EVERY_LAYER, LayerSelection
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from tests.families import write_family


@pytest.fixture
def denoiser(checkpoint) -> DiffusersDenoiser:
    return DiffusersDenoiser.open(checkpoint, CheckpointConfig())


@pytest.fixture(scope="module")
def sdxl_file(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("sdxl"), "sdxl", ("v_pred", "ztsnr"))


@pytest.fixture
def sdxl(sdxl_file) -> DiffusersDenoiser:
    config = CheckpointConfig(checkpoint=str(sdxl_file))
    with StandaloneHost(config, torch.device("cpu")).lease() as checkpoint:
        return DiffusersDenoiser.open(checkpoint, config)


def test_the_process_is_the_checkpoints(denoiser, sdxl):
    assert (denoiser.process.prediction, sdxl.process.prediction) == ("epsilon", "v")
    assert denoiser.process.alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)
    assert sdxl.process.alphas_cumprod[-1] == 0


def test_latents_are_those_of_the_family(denoiser, sdxl):
    assert [(d.latent.channels, d.latent.factor, d.latent.scale) for d in (denoiser, sdxl)] == [
        (4, 8, 0.18215),
        (4, 8, 0.13025),
    ]


def test_images_are_encoded_as_mean_and_deviation(denoiser):
    pixels = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = denoiser.encode_images(pixels)
    with torch.no_grad():
        posterior = denoiser.vae.encode(pixels).latent_dist
    assert encoded.shape == (2, 8, 8, 4)
    torch.testing.assert_close(encoded, torch.cat([posterior.mean, posterior.logvar.div(2).exp()], dim=1))


def test_the_prediction_is_float32_in_any_precision(checkpoint):
    denoiser = DiffusersDenoiser.open(replace(checkpoint, precision=torch.bfloat16, views=[]), CheckpointConfig())
    latents, conditioning = torch.zeros(denoiser.latent.shape(1, 64, 64)), denoiser.example_conditioning(1)
    assert denoiser.predict(latents, torch.tensor([5]), conditioning).dtype == torch.float32


def test_the_example_conditioning_is_as_long_as_the_longest_caption(checkpoint):
    denoiser = DiffusersDenoiser.open(checkpoint, CheckpointConfig(max_tokens=150))
    assert denoiser.example_conditioning(3).context.shape == (3, 154, 16)


class TestGeometry:
    GEOMETRY = ImageGeometry(torch.tensor([[480, 640]]), torch.tensor([[0, 16]]), torch.tensor([[512, 448]]))

    def test_is_six_numbers_for_sdxl(self, sdxl):
        conditioning = sdxl.encode_text(["a cat"]).with_geometry(self.GEOMETRY)
        assert conditioning.time_ids.tolist() == [[480, 640, 0, 16, 512, 448]]

    def test_is_not_used_by_other_families(self, denoiser):
        assert denoiser.encode_text(["a cat"]).with_geometry(self.GEOMETRY).time_ids is None


class TestTargets:
    def test_come_with_the_unets_first(self, denoiser):
        found = denoiser.targets(LayerSelection(text_encoders=True))
        text = [target.text for target in found]
        assert text == sorted(text)
        assert len(set(text)) == 2

    def test_name_layers_in_files_as_kohya_does(self, denoiser, sdxl):
        for model, names in (
            (denoiser, {"lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"}),
            (sdxl, {"lora_unet_middle_block_1_proj_in", "lora_te2_text_model_encoder_layers_0_mlp_fc1"}),
        ):
            assert names <= {target.name for target in model.targets(EVERY_LAYER)}

    def test_point_at_the_views_own_layers(self, denoiser):
        own = {*denoiser.unet.modules(), *denoiser.text_encoders.modules()}
        layers = [target.layer for target in denoiser.targets(EVERY_LAYER)]
        assert own.issuperset(layers)
        assert len(set(layers)) == len(layers) > 0

    def test_leave_out_text_layers_without_effect_unless_asked_for(self, sdxl):
        def last_layers(selection: LayerSelection) -> list[str]:
            return [t.name for t in sdxl.targets(selection) if t.name.startswith("lora_te1") and "_layers_3_" in t.name]

        assert last_layers(LayerSelection(text_encoders=True)) == []
        assert len(last_layers(EVERY_LAYER)) == 6


class TestFingerprints:
    def test_of_autoencoders_depend_on_the_encoder_alone(self, miniature, tmp_path):
        def fingerprint(changed: str = "") -> str:
            weights = load_file(miniature)
            if changed:
                weights[changed] = weights[changed] + 1
            path = tmp_path / "other.safetensors"
            save_file(weights, path)
            config = CheckpointConfig(checkpoint=str(path), tokenizer=str(miniature.with_suffix("")))
            with StandaloneHost(config, torch.device("cpu")).lease() as checkpoint:
                return DiffusersDenoiser.open(checkpoint, config).autoencoder_fingerprint()

        own = fingerprint()
        assert fingerprint("first_stage_model.encoder.conv_in.bias") != own
        assert fingerprint("first_stage_model.quant_conv.bias") != own
        assert fingerprint("first_stage_model.decoder.conv_in.bias") == own

    def test_of_text_encoders_depend_on_the_settings(self, checkpoint):
        configs = (CheckpointConfig(), CheckpointConfig(clip_skip=2), CheckpointConfig(max_tokens=150))
        found = {DiffusersDenoiser.open(checkpoint, config).text_fingerprint() for config in configs}
        assert len(found) == 3


def test_epsilon_with_zero_terminal_snr_is_refused(checkpoint, complaint):
    wrong = replace(checkpoint, zero_terminal_snr=True)
    text = complaint(DiffusersDenoiser.open, wrong, CheckpointConfig())
    assert text.startswith("zero_terminal_snr: miniature predicts noise")
