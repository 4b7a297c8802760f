"""SD 2 and SDXL: views share the checkpoint's memory, and compute what independent networks compute."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.standalone import StandaloneHost
from lib_lora_train.model.diffusers_view.conditioning import UNetConditioning, predict
from lib_lora_train.model.diffusers_view.denoiser import DiffusersDenoiser
from lib_lora_train.model.diffusers_view.views import text_encoder_view, unet_view, vae_view
from lib_lora_train.model.sampling import SamplingOptions, generate
from lib_lora_train.model.text_cache import TextCache
from lib_lora_train.training.text_source import TextSource
from tests.families import UNETS, open_clip_by_hand, write_family
from tests.miniature import VAE
from tests.model.diffusers_view.test_text import by_hand as clip_by_hand

CPU = torch.device("cpu")
VIEWS = {
    ("sd2", "unet"): unet_view,
    ("sd2", "vae"): vae_view,
    ("sd2", "text_encoder"): text_encoder_view,
    ("sdxl", "unet"): unet_view,
    ("sdxl", "vae"): vae_view,
    ("sdxl", "text_encoder"): text_encoder_view,
    ("sdxl", "second_text_encoder"): lambda checkpoint: text_encoder_view(checkpoint, 1),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {family: write_family(folder, family) for family in ("sd2", "sdxl")}


@pytest.fixture
def checkpoint_of(files):
    def attach(family: str, **settings):
        config = CheckpointConfig(checkpoint=str(files[family]), **({"prediction": "epsilon"} | settings))
        with StandaloneHost(config, CPU).lease() as checkpoint:
            return checkpoint

    return attach


@pytest.fixture
def denoiser_of(checkpoint_of):
    return lambda family, **settings: DiffusersDenoiser.open(checkpoint_of(family), CheckpointConfig(**settings))


def weights_of(checkpoint, part: str) -> dict[str, torch.Tensor]:
    number = {"text_encoder": 0, "second_text_encoder": 1}.get(part)
    return getattr(checkpoint, part) if number is None else checkpoint.text_encoders[number].weights


def open_clip(family: str, files) -> dict[str, torch.Tensor]:
    prefix = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}[family]
    return {k.removeprefix(prefix): t for k, t in load_file(files[family]).items() if k.startswith(prefix)}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def words(count: int) -> str:
    return " ".join(["red", "cat", "star"][i % 3] for i in range(count))


def zero_padded(ids: list[int], end: int) -> list[int]:
    """Tokens after EOS become 0."""
    first = ids.index(end)
    return ids[: first + 1] + [0] * (len(ids) - first - 1)


@pytest.mark.parametrize(("family", "part"), VIEWS)
class TestViews:
    def test_have_no_weight_of_their_own(self, checkpoint_of, family, part):
        checkpoint = checkpoint_of(family)
        own = {tensor.untyped_storage().data_ptr() for tensor in weights_of(checkpoint, part).values()}
        parameters = list(VIEWS[family, part](checkpoint).parameters())
        shared = [p for p in parameters if p.untyped_storage().data_ptr() in own]
        assert len(shared) == len(parameters) > 10

    def test_use_every_weight_of_the_checkpoint_once(self, checkpoint_of, family, part):
        checkpoint = checkpoint_of(family)
        shared_numbers = {k: t for k, t in weights_of(checkpoint, part).items() if k != "logit_scale"}
        parameters = list(VIEWS[family, part](checkpoint).parameters())
        assert sum(p.numel() for p in parameters) == sum(t.numel() for t in shared_numbers.values())
        assert len({p.data_ptr() for p in parameters}) == len(parameters)

    def test_share_new_tensors_when_they_are_attached_again(self, checkpoint_of, family, part):
        checkpoint = checkpoint_of(family)
        view = VIEWS[family, part](checkpoint)
        for own in (checkpoint, *checkpoint.text_encoders):
            for name in ("unet", "vae", "weights"):
                if hasattr(own, name):
                    setattr(own, name, {key: tensor.clone() for key, tensor in getattr(own, name).items()})
        checkpoint.views[0].attach()
        own = {tensor.untyped_storage().data_ptr() for tensor in weights_of(checkpoint, part).values()}
        assert all(p.untyped_storage().data_ptr() in own for p in view.parameters())


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
class TestAgainstDiffusers:
    @pytest.fixture
    def configs(self, family, tmp_path):
        UNet2DConditionModel(**UNETS[family]).save_config(tmp_path / "unet")
        AutoencoderKL(**VAE).save_config(tmp_path / "vae")
        return tmp_path

    def test_the_unet(self, files, checkpoint_of, configs, family):
        reference = UNet2DConditionModel.from_single_file(
            str(files[family]), config=str(configs), subfolder="unet", local_files_only=True
        ).eval()
        context = normal(2, 77, UNETS[family]["cross_attention_dim"])
        conditioning = UNetConditioning(context)
        if family == "sdxl":
            conditioning = UNetConditioning(
                context, normal(2, 64), torch.tensor([[640, 480, 0, 16, 512, 512], [1, 2, 3, 4, 5, 6]])
            )
        noisy, steps = normal(2, 4, 8, 8), torch.tensor([10, 900])
        with torch.no_grad():
            ours, theirs = (
                predict(unet, noisy, steps, conditioning) for unet in (unet_view(checkpoint_of(family)), reference)
            )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

    def test_the_vae(self, files, checkpoint_of, configs, family):
        reference = AutoencoderKL.from_single_file(
            str(files[family]), config=str(configs), subfolder="vae", local_files_only=True
        )
        pixels = normal(1, 3, 32, 32)
        with torch.no_grad():
            ours, theirs = (
                model.encode(pixels).latent_dist.parameters
                for model in (vae_view(checkpoint_of(family)), reference.eval())
            )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


class TestTextFeatures:
    @pytest.fixture(autouse=True)
    def without_gradients(self):
        """A decorator of the class would make it a function, which pytest does not collect."""
        with torch.no_grad():
            yield

    def test_of_sd2_are_the_penultimate_state_after_the_final_norm(self, files, denoiser_of):
        denoiser, weights = denoiser_of("sd2"), open_clip("sd2", files)
        tokenizer = denoiser.checkpoint.text_encoders[0].tokenizer
        ids = torch.tensor(
            [zero_padded(tokenizer("a red cat", padding="max_length", max_length=77).input_ids, tokenizer.eos_token_id)]
        )
        penultimate, _, _ = open_clip_by_hand(weights, ids)
        expected = torch.nn.functional.layer_norm(
            penultimate, (64,), weights["ln_final.weight"], weights["ln_final.bias"]
        )
        features = denoiser.encode_text(["a red cat"])
        torch.testing.assert_close(features.context, expected, atol=1e-5, rtol=0)
        assert features.pooled is None

    @pytest.mark.parametrize("clip_skip", [1, 2])
    def test_of_sdxl_are_both_encoders_penultimate_states(self, files, denoiser_of, clip_skip):
        denoiser, texts = denoiser_of("sdxl", clip_skip=clip_skip), ["a red cat", "star"]
        features = denoiser.encode_text(texts)
        first, second, pooled = self.expected(files, denoiser, texts)
        torch.testing.assert_close(features.context, torch.cat([first, second], dim=-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(features.pooled, pooled, atol=1e-5, rtol=0)

    def test_of_a_long_caption_are_its_chunks_and_pooled_is_from_the_first(self, files, denoiser_of):
        denoiser = denoiser_of("sdxl", max_tokens=150)
        features = denoiser.encode_text([words(100), "a cat"])
        ids = denoiser.checkpoint.text_encoders[0].tokenizer(words(100), add_special_tokens=False).input_ids
        pieces = [denoiser.checkpoint.text_encoders[0].tokenizer.decode(piece) for piece in (ids[:75], ids[75:])]
        first, second, pooled = self.expected(files, denoiser, pieces)
        expected = torch.cat([first, second], dim=-1).flatten(0, 1)
        torch.testing.assert_close(features.context[0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(features.pooled[0], pooled[0], atol=1e-5, rtol=0)
        assert features.context.shape == (2, 154, 96)

    def expected(self, files, denoiser, texts):
        tokenizer = denoiser.checkpoint.text_encoders[0].tokenizer
        ids = tokenizer(texts, padding="max_length", max_length=77).input_ids
        zeros = torch.tensor([zero_padded(row, tokenizer.eos_token_id) for row in ids])
        second, _, pooled = open_clip_by_hand(open_clip("sdxl", files), zeros)
        prefix = "conditioner.embedders.0.transformer."
        weights = {k.removeprefix(prefix): t for k, t in load_file(files["sdxl"]).items() if k.startswith(prefix)}
        # Without the last layer, and with a final norm that does nothing: by_hand always ends in one.
        return self.before_the_norm(weights, torch.tensor(ids)), second, pooled

    def before_the_norm(self, weights, ids):
        core = {name: tensor for name, tensor in weights.items() if "final_layer_norm" not in name}
        scale, shift = torch.ones(32), torch.zeros(32)
        normed = clip_by_hand(
            core | {"text_model.final_layer_norm.weight": scale, "text_model.final_layer_norm.bias": shift}, ids, 1
        )
        from transformers import CLIPTextModel

        from tests.families import clip_config

        model = CLIPTextModel(clip_config(len(weights["text_model.embeddings.token_embedding.weight"]))).eval()
        cut = "" if any(key.startswith("text_model.") for key in model.state_dict()) else "text_model."
        model.load_state_dict({k.removeprefix(cut): t for k, t in weights.items()}, strict=False)
        hidden = model(ids, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(torch.nn.functional.layer_norm(hidden, (32,)), normed, atol=1e-4, rtol=0)
        return hidden


class TestPrompts:
    def conditioning_of(self, denoiser, monkeypatch, negative):
        """(texts, negatives) that a sampler gets for two prompts."""
        calls = []

        def listen(denoiser, texts, negatives, seeds, options):
            calls.append((texts, negatives))
            return torch.zeros(denoiser.latent.shape(len(seeds), options.height, options.width))

        monkeypatch.setattr("lib_lora_train.model.sampling.sample_latents", listen)
        generate(denoiser, ["a red cat", "star"], negative, [1, 2], SamplingOptions(64, 32))
        return calls[0]

    def test_of_sdxl_come_with_the_size_of_an_uncropped_image(self, denoiser_of, monkeypatch):
        texts, negatives = self.conditioning_of(denoiser_of("sdxl"), monkeypatch, "blue")
        assert texts.time_ids.tolist() == negatives.time_ids.tolist() == [[32, 64, 0, 0, 32, 64]] * 2

    def test_that_are_empty_and_negative_are_zeros_for_sdxl(self, denoiser_of, monkeypatch):
        denoiser = denoiser_of("sdxl")
        texts, negatives = self.conditioning_of(denoiser, monkeypatch, "")
        assert negatives.context.abs().max() == negatives.pooled.abs().max() == 0
        assert torch.equal(texts.pooled, denoiser.encode_text(["a red cat", "star"]).pooled)

    def test_that_are_empty_and_negative_are_encoded_for_sd2(self, denoiser_of, monkeypatch):
        denoiser = denoiser_of("sd2")
        _, negatives = self.conditioning_of(denoiser, monkeypatch, "")
        torch.testing.assert_close(negatives.context[:1], denoiser.encode_text([""]).context)


@pytest.mark.parametrize("trained", [False, True])
class TestACaptionThatIsDropped:
    """None in place of a caption; "" is an empty caption."""

    def conditioning(self, denoiser, trained):
        weight = torch.nn.Parameter(torch.zeros(1), requires_grad=trained)
        return TextSource(denoiser, [weight], TextCache(denoiser)).encode([None, "a red cat", ""])

    def test_is_zeros_for_sdxl(self, denoiser_of, trained):
        denoiser = denoiser_of("sdxl")
        conditioning, encoded = self.conditioning(denoiser, trained), denoiser.encode_text(["a red cat", ""])
        assert conditioning.context[0].abs().max() == conditioning.pooled[0].abs().max() == 0
        torch.testing.assert_close(
            (conditioning.context[1:], conditioning.pooled[1:]), (encoded.context, encoded.pooled)
        )

    def test_is_an_empty_text_for_sd2(self, denoiser_of, trained):
        conditioning = self.conditioning(denoiser_of("sd2"), trained)
        assert torch.equal(conditioning.context[0], conditioning.context[2])
        assert conditioning.context[0].abs().max() > 0
