"""A view computes what an independently loaded model computes, on the checkpoint's own memory."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel

from lib_lora_train.model.denoiser import LayerSelection
from lib_lora_train.model.diffusers_view.targets import text_encoder_targets, unet_targets
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view, vae_view
from tests.adapters.adapting import adapted
from tests.miniature import UNET, VAE, text_config

VIEWS = {"unet": unet_view, "vae": vae_view, "text_encoder": text_encoder_view}


def weights_of(checkpoint, part: str) -> dict[str, torch.Tensor]:
    return checkpoint.text_encoders[0].weights if part == "text_encoder" else getattr(checkpoint, part)


def with_weights(checkpoint, part: str, weights: dict[str, torch.Tensor]):
    """The same checkpoint with other weights of one part."""
    if part == "text_encoder":
        part, weights = "text_encoders", [dataclasses.replace(checkpoint.text_encoders[0], weights=weights)]
    return dataclasses.replace(checkpoint, **{part: weights})


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """diffusers' config folder for the miniature, so that it can be loaded without a download."""
    folder = tmp_path_factory.mktemp("configs")
    UNet2DConditionModel(**UNET).save_config(folder / "unet")
    AutoencoderKL(**VAE).save_config(folder / "vae")
    return folder


@pytest.mark.parametrize("part", VIEWS)
class TestEveryView:
    def test_has_no_weight_of_its_own(self, checkpoint, part):
        shared_storages = {tensor.untyped_storage().data_ptr() for tensor in weights_of(checkpoint, part).values()}
        view = VIEWS[part](checkpoint)
        assert {p.untyped_storage().data_ptr() for p in view.parameters()} <= shared_storages

    def test_uses_every_weight_of_the_checkpoint_once(self, checkpoint, part):
        addresses = sorted(tensor.data_ptr() for tensor in weights_of(checkpoint, part).values())
        assert sorted(p.data_ptr() for p in VIEWS[part](checkpoint).parameters()) == addresses

    def test_has_nothing_on_the_meta_device(self, checkpoint, part):
        view = VIEWS[part](checkpoint)
        assert "meta" not in {tensor.device.type for tensor in [*view.parameters(), *view.buffers()]}

    def test_is_frozen_and_in_evaluation_mode(self, checkpoint, part):
        view = VIEWS[part](checkpoint)
        assert not any(p.requires_grad for p in view.parameters())
        assert not any(module.training for module in view.modules())

    def test_of_a_checkpoint_that_lacks_a_weight_is_refused(self, checkpoint, part, complaint):
        name = next(key for key in weights_of(checkpoint, part) if key.endswith("bias"))
        lacking = {key: tensor for key, tensor in weights_of(checkpoint, part).items() if key != name}
        text = complaint(VIEWS[part], with_weights(checkpoint, part, lacking))
        assert "of miniature has an unknown architecture (1 weights differ" in text
        assert "Choose another checkpoint." in text

    def test_of_no_weights_at_all_is_refused(self, checkpoint, part, complaint):
        assert "unknown architecture" in complaint(VIEWS[part], with_weights(checkpoint, part, {}))

    def test_of_a_checkpoint_with_an_extra_weight_is_refused(self, checkpoint, part, complaint):
        more = {**weights_of(checkpoint, part), "something.else.weight": torch.zeros(1)}
        text = complaint(VIEWS[part], with_weights(checkpoint, part, more))
        assert "unknown architecture" in text

    def test_of_a_checkpoint_with_a_weight_of_another_shape_is_refused(self, checkpoint, part, complaint):
        name = next(key for key in weights_of(checkpoint, part) if key.endswith("bias"))
        other = {**weights_of(checkpoint, part), name: torch.zeros(3)}
        assert "unknown architecture" in complaint(VIEWS[part], with_weights(checkpoint, part, other))


class TestOutputs:
    def test_of_the_unet(self, miniature, checkpoint, configs):
        reference = UNet2DConditionModel.from_single_file(
            str(miniature), config=str(configs), subfolder="unet", local_files_only=True
        )
        inputs = (normal(2, 4, 8, 8), torch.tensor([10, 900]), normal(2, 77, 16))
        with torch.no_grad():
            torch.testing.assert_close(
                unet_view(checkpoint)(*inputs).sample, reference.eval()(*inputs).sample, atol=1e-5, rtol=0
            )

    def test_of_the_vae(self, miniature, checkpoint, configs):
        reference = AutoencoderKL.from_single_file(
            str(miniature), config=str(configs), subfolder="vae", local_files_only=True
        )
        pixels, latents, view = normal(1, 3, 32, 32), normal(1, 4, 4, 4), vae_view(checkpoint)
        with torch.no_grad():
            ours, theirs = (model.encode(pixels).latent_dist.parameters for model in (view, reference.eval()))
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
            torch.testing.assert_close(view.decode(latents).sample, reference.decode(latents).sample, atol=1e-5, rtol=0)

    def test_of_the_text_encoder(self, miniature, checkpoint):
        prefix = "cond_stage_model.transformer."
        reference = CLIPTextModel(text_config(len(checkpoint.text_encoders[0].tokenizer))).eval()
        strip = "" if any(key.startswith("text_model.") for key in reference.state_dict()) else "text_model."
        weights = {
            key.removeprefix(prefix).removeprefix(strip): t
            for key, t in load_file(miniature).items()
            if key.startswith(prefix)
        }
        reference.load_state_dict(weights, strict=False)
        ids = torch.arange(2 * 77).reshape(2, 77) % len(checkpoint.text_encoders[0].tokenizer)
        with torch.no_grad():
            ours, theirs = text_encoder_view(checkpoint)(ids), reference(ids)
        torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-5, rtol=0)


def test_training_an_adapter_changes_no_bit_of_the_checkpoint(checkpoint):
    before = {part: {name: t.clone() for name, t in weights_of(checkpoint, part).items()} for part in VIEWS}
    unet, encoder = unet_view(checkpoint), text_encoder_view(checkpoint)
    layers = unet_targets(unet, LayerSelection(convolutions=True)) + text_encoder_targets(encoder, "lora_te")
    weights = adapted(layers, rank=2, conv_rank=2).parameters()
    started = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        context = encoder(torch.arange(77)[None]).last_hidden_state
        unet(normal(1, 4, 8, 8), torch.tensor([step]), context).sample.square().mean().backward()
        optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(started, weights, strict=True))
    for part, tensors in before.items():
        assert all(torch.equal(tensor, weights_of(checkpoint, part)[name]) for name, tensor in tensors.items())
