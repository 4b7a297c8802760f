"""LDM's and OpenCLIP's names and formats of the weights of the embedded checkpoint and its variants."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.checkpoints.layout import (
    SECOND_TEXT,
    VAE,
    open_clip_weights,
    read_open_clip,
    read_unet,
    read_vae,
    rescaled,
    unet_weights,
    vae_weights,
    without,
)
from tools.checkpoints.second_vocabulary import second_text_config, write_second_tokenizer
from tools.checkpoints.train_autoencoder import AUTOENCODER_CONFIG
from tools.checkpoints.train_second_encoder import TextPair, with_one_more_layer
from tools.checkpoints.vocabulary import text_config, write_tokenizer
from tools.checkpoints.xl_unet import XL_UNET_CONFIG


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(
        CLIPTextConfig(**{**second_text_config(), "vocab_size": 500, "eos_token_id": 499})
    ).eval()


@torch.no_grad()
def open_clip_forward(weights, ids, layers, heads):
    """OpenCLIP's text encoder, written from its description: (features before the last layer, pooled)."""
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"]
    width, count = x.shape[-1], ids.shape[1]
    mask = torch.full((count, count), float("-inf")).triu(1)
    for number in range(layers):
        before = x
        at = f"transformer.resblocks.{number}."
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True).eval()
        attention.load_state_dict(
            {key.removeprefix(f"{at}attn."): v for key, v in weights.items() if f"{at}attn." in key}
        )
        normed = F.layer_norm(x, (width,), weights[f"{at}ln_1.weight"], weights[f"{at}ln_1.bias"])
        x = x + attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        normed = F.layer_norm(x, (width,), weights[f"{at}ln_2.weight"], weights[f"{at}ln_2.bias"])
        hidden = F.gelu(normed @ weights[f"{at}mlp.c_fc.weight"].T + weights[f"{at}mlp.c_fc.bias"])
        x = x + hidden @ weights[f"{at}mlp.c_proj.weight"].T + weights[f"{at}mlp.c_proj.bias"]
    last = F.layer_norm(x, (width,), weights["ln_final.weight"], weights["ln_final.bias"])
    return before, last[torch.arange(len(ids)), ids.argmax(dim=1)] @ weights["text_projection"]


def test_an_open_clip_text_encoder_with_these_weights_computes_the_same(encoder):
    weights = {key: v.float() for key, v in without(SECOND_TEXT, open_clip_weights(encoder)).items()}
    ids = torch.randint(1, 498, (3, 77), generator=torch.Generator().manual_seed(1))
    ids[:, 9] = 499
    ids[:, 10:] = 0
    features, pooled = open_clip_forward(weights, ids, layers=3, heads=1)
    ours = encoder(ids, output_hidden_states=True)
    torch.testing.assert_close(ours.hidden_states[-2], features, atol=2e-3, rtol=2e-2)
    torch.testing.assert_close(ours.text_embeds, pooled, atol=5e-3, rtol=2e-2)


def test_open_clip_weights_can_be_read_back(encoder, tmp_path):
    encoder.config.save_pretrained(tmp_path)
    again = read_open_clip({key: v.float() for key, v in open_clip_weights(encoder).items()}, tmp_path).state_dict()
    for key, tensor in encoder.state_dict().items():
        torch.testing.assert_close(again[key], tensor, atol=1e-3, rtol=1e-3)


def test_the_xl_unet_has_sdxls_names_and_can_be_read_back():
    unet = UNet2DConditionModel(**XL_UNET_CONFIG)
    weights = unet_weights(unet)
    at = "model.diffusion_model."
    assert weights[f"{at}label_emb.0.0.weight"].shape == (256, 32 + 6 * 256)
    # Blocks at the highest resolution have only a resnet; the first attention is input_blocks.4.1.
    assert f"{at}input_blocks.1.1.norm.weight" not in weights
    assert weights[f"{at}input_blocks.4.1.proj_in.weight"].dim() == 2
    assert f"{at}input_blocks.7.1.transformer_blocks.1.attn2.to_k.weight" in weights
    assert f"{at}output_blocks.2.2.conv.weight" in weights
    again = read_unet({key: v.float() for key, v in weights.items()}, XL_UNET_CONFIG).state_dict()
    for key, tensor in unet.state_dict().items():
        torch.testing.assert_close(again[key], tensor, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_rescaled_vae_decodes_its_latents_to_the_same_images():
    vae = AutoencoderKL(**AUTOENCODER_CONFIG).eval()
    weights = {key: v.float() for key, v in vae_weights(vae).items()}
    plain, larger = read_vae(weights, 1.0), read_vae(rescaled(weights, 1.5), 1.0)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents, scaled = plain.encode(image).latent_dist, larger.encode(image).latent_dist
    torch.testing.assert_close(scaled.mean, 1.5 * latents.mean)
    torch.testing.assert_close(scaled.std, 1.5 * latents.std)
    torch.testing.assert_close(
        larger.decode(scaled.mean).sample, plain.decode(latents.mean).sample, atol=1e-4, rtol=1e-4
    )
    attention = [key for key in weights if key.startswith(f"{VAE}encoder.mid.attn_1.q.weight")]
    assert [weights[key].dim() for key in attention] == [4]


@torch.no_grad()
def test_the_features_of_both_encoders_are_those_before_their_last_layer_side_by_side(encoder, tmp_path):
    write_tokenizer(tmp_path / "first")
    write_second_tokenizer(tmp_path / "second")
    tokenizers = [CLIPTokenizer.from_pretrained(str(tmp_path / name)) for name in ("first", "second")]
    shallow = CLIPTextModel(CLIPTextConfig(**text_config(len(tokenizers[0])))).eval()
    second = CLIPTextModelWithProjection(CLIPTextConfig(**second_text_config())).eval()
    pair = TextPair(with_one_more_layer(shallow), tokenizers[0], second, tokenizers[1])
    context, pooled = pair.encode(["a red star", "a star", "a red star"])
    assert context.shape == (3, 77, 64 + 32)
    assert torch.equal(context[0], context[2])
    ids = tokenizers[0](["a red star"], padding="max_length", return_tensors="pt").input_ids
    # The input of the added layer is the output of the original encoder without its last norm.
    torch.testing.assert_close(context[:1, :, :64], shallow(ids, output_hidden_states=True).hidden_states[2])
    ids = torch.zeros(1, 77, dtype=torch.long)
    ids[0, :5] = torch.tensor([49406, 320, 736, 1565, 49407])
    expected = second(ids, output_hidden_states=True)
    torch.testing.assert_close(context[:1, :, 64:], expected.hidden_states[1 + 1])
    torch.testing.assert_close(pooled[:1], expected.text_embeds)
