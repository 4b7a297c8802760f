"""SD 2 and SDXL in a real WebUI: compares text features and UNet with its own, and checks how it reads the adapters.

    python -m tests.integration.check_families PATH-OF-A-WEBUI

Writes small random checkpoints in the layouts of SD 2 and SDXL with files that describe their sizes, loads each in the
WebUI, and trains an adapter on it.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from lib_lora_train.adapters.formats.kohya import load_adapter
from lib_lora_train.embedded import DEMO_IMAGES
from tests.families import write_family
from tests.integration.checks import arguments_of, failures_of, report, running_webui
from tests.integration.forge_sizes import ForgeSizes, config_in
from tests.integration.webui import WebUI

PROMPTS = ("", "a red circle on a white background", " ".join(["photo of a blue cat on white"] * 14))
TRIGGER = "q"
"""One letter, which has the same token in the small tokenizer and in OpenCLIP's: A1111 looks it up in the first."""
TRIGGER_PROMPT = f"a {TRIGGER} circle beside {TRIGGER}"
TOLERANCE = 1e-4
VERSIONS = {"sd2": "SD2", "sdxl": "SDXL", "sdxl-v": "SDXL", "sdxl-marked": "SDXL"}
PREDICTIONS = {"sd2": "v", "sdxl": "epsilon", "sdxl-v": "v", "sdxl-marked": "v"}
MARKERS = {"sdxl-v": ("ztsnr",), "sdxl-marked": ("v_pred", "ztsnr")}
"""Prediction markers in the files. The yaml beside sdxl-marked says epsilon, like the SDXL yaml that a WebUI uses."""
VAE = {
    "embed_dim": 4,
    "monitor": "val/rec_loss",
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
    "lossconfig": {"target": "torch.nn.Identity"},
}
UNET = {
    "use_checkpoint": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": 2,
    "channel_mult": [1, 2],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
}


def main() -> None:
    chosen = arguments_of(__doc__)
    with running_webui(chosen.webui, prepare) as webui:
        failures = [failure for name in VERSIONS for failure in check(webui, name)]
    report(failures)


def prepare(data: Path) -> None:
    """Adds the second extension, and the checkpoints with their configs."""
    (data / "extensions" / "zz-lora-train-families").symlink_to(Path(__file__).parent / "families_extension")
    models = data / "models" / "Stable-diffusion"
    for name in VERSIONS:
        path = write_family(models, name.partition("-")[0], MARKERS.get(name, ()), words=49408, name=name)
        config = sd2_config() if name == "sd2" else sdxl_config(path, "v" if name == "sdxl-v" else "epsilon")
        path.with_suffix(".yaml").write_text(yaml.safe_dump({"model": config}), encoding="utf-8")
        forge_sizes(name, path).write_beside(path)


def check(webui: WebUI, name: str) -> list[str]:
    """What is wrong with the checkpoint `name`; prints what was found."""
    webui.call("POST", "/sdapi/v1/refresh-checkpoints")
    webui.call("POST", "/sdapi/v1/options", {"live_previews_enable": False})  # SDXL's would download a model
    webui.load_checkpoint(f"{name}.safetensors")
    failures = []
    for prompt in PROMPTS:
        found = webui.call("POST", "/lora-train-families/compare", {"prompt": prompt}).body
        print(f"{name} {prompt[:20]!r}: {found}", flush=True)
        if not isinstance(found, dict) or "text" not in found:
            print((webui.data / "log.txt").read_text(errors="replace")[-15000:])
            return [f"{name}: {found}"]
        difference = max(found["text"], found.get("pooled", 0.0), found["unet"])
        failures += failures_of(
            name,
            {
                f"differs by {difference}": difference <= TOLERANCE,
                f"{found['shared']} of {found['parameters']} shared": found["shared"] == found["parameters"],
                f"predicts {found['prediction']}": found["prediction"] == PREDICTIONS[name],
                f"zero terminal SNR is {found['zero_terminal_snr']}": found["zero_terminal_snr"] == (name in MARKERS),
            },
        )
    return failures + check_adapter(webui, name)


def check_adapter(webui: WebUI, name: str) -> list[str]:
    """Trains UNet and text encoders for a few steps, and checks the file and the images with and without its tag."""
    image, run = webui.generate(PROMPTS[1]), f"on {name}"
    settings = {
        "name": run,
        "dataset_folder": str(DEMO_IMAGES),
        "resolution": 64,
        "epochs": 1,
        "repeats": 1,
        "max_steps": 4,
        "rank": 4,
        "conv_rank": 4,
        "train_text_encoder": True,
        "learning_rate": 1e-2,
        "sample_every_n_epochs": 0,
        "validate_every_n_epochs": 0,
    }
    reads_embeddings = webui.kind == "A1111"  # the others ignore embeddings in adapter files
    if reads_embeddings:
        settings |= {"trigger_word": TRIGGER, "trigger_vectors": 2, "embedding_learning_rate": 0.1}
    response = webui.start(**settings)
    job = webui.wait(run, "finished", "failed") if response.status == 200 else response.body
    if job.get("state") != "finished":
        return [f"{name}: {job}"]
    file = load_adapter(webui.data / "models" / "Lora" / run / f"{run}.safetensors")
    matched = webui.call("POST", "/lora-train-families/matches", {"name": run}).body
    tagged, after = webui.generate(f"{PROMPTS[1]} <lora:{run}:1>"), webui.generate(PROMPTS[1])
    print(f"{name}: {len(file.layers)} layers, {matched}; the tag changes the image: {tagged != image}", flush=True)
    failures = failures_of(
        name,
        {
            f"{matched['layers']} of {len(file.layers)} layers matched": matched["layers"] == len(file.layers),
            f"unmatched: {matched['unmatched']}": not matched["unmatched"],
            f"shown as {matched['version']}": matched["version"] == VERSIONS[name],
            "the tag changes nothing": tagged != image,
            "the image stays changed after the tag": after == image,
        },
    )
    return failures + (check_embedding(webui, name, run) if reads_embeddings else [])


def check_embedding(webui: WebUI, name: str, run: str) -> list[str]:
    """Compares the WebUI's text features with ours for a prompt with the trigger word, whose embedding is in the file."""
    found = webui.call("POST", "/lora-train-families/embedding", {"name": run, "prompt": TRIGGER_PROMPT}).body
    print(f"{name}: with its embedding {found}", flush=True)
    same = max(found["text"], found.get("pooled", 0.0)) <= TOLERANCE
    return failures_of(
        name,
        {
            f"text features with the embedding differ: {found}": same,
            f"the embedding changes nothing: {found}": found["changed"] > TOLERANCE,
        },
    )


def forge_sizes(name: str, path: Path) -> ForgeSizes:
    """The checkpoint's sizes, for Forge."""
    open_clip = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "projection_dim": 64,
    }
    vae = {"block_out_channels": [32 * factor for factor in VAE["ddconfig"]["ch_mult"]], "layers_per_block": 1}
    if name == "sd2":  # Forge does not load the last layer
        text = {"text_encoder": open_clip | {"num_hidden_layers": 2}}
        return ForgeSizes("SD20", {"context_dim": 64, "model_channels": 64}, {"vae": vae, **text})
    unet = {"context_dim": 96, "model_channels": 64, "transformer_depth": [0, 0, 2, 2], "adm_in_channels": 64 + 6 * 256}
    texts = {"text_encoder": config_in(path.with_suffix("")), "text_encoder_2": open_clip}
    return ForgeSizes("SDXL", unet, {"vae": vae, **texts}, {"tokenizer": str(path.with_suffix(""))})


def sd2_config() -> dict:
    """As v2-inference-v.yaml, in small sizes."""
    unet = UNET | {"image_size": 8, "attention_resolutions": [1], "transformer_depth": 1, "context_dim": 64}
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "parameterization": "v",
            "linear_start": 0.00085,
            "linear_end": 0.012,
            "num_timesteps_cond": 1,
            "timesteps": 1000,
            "first_stage_key": "jpg",
            "cond_stage_key": "txt",
            "image_size": 8,
            "channels": 4,
            "cond_stage_trainable": False,
            "conditioning_key": "crossattn",
            "scale_factor": 0.18215,
            "use_ema": False,
            "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
            "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": VAE},
            "cond_stage_config": {
                "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
                "params": {"arch": "lora-train-small", "freeze": True, "layer": "penultimate"},
            },
        },
    }


def sdxl_config(path: Path, prediction: str) -> dict:
    """As sd_xl_base.yaml, in small sizes."""
    sizes = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    diffusion, encoders = "sgm.modules.diffusionmodules", "sgm.modules.encoders.modules"
    kind = "V" if prediction == "v" else "Eps"
    unet = UNET | {
        "adm_in_channels": 64 + 6 * 256,
        "num_classes": "sequential",
        "attention_resolutions": [2],
        "transformer_depth": [1, 2],
        "context_dim": 96,
        "spatial_transformer_attn_type": "softmax",
    }
    clip = {"layer": "hidden", "layer_idx": 3, "version": str(path.with_suffix(""))}
    open_clip = {
        "arch": "lora-train-small",
        "freeze": True,
        "layer": "penultimate",
        "always_return_pooled": True,
        "legacy": False,
    }
    texts = [(f"{encoders}.FrozenCLIPEmbedder", clip), (f"{encoders}.FrozenOpenCLIPEmbedder2", open_clip)]
    embedders = [{"is_trainable": False, "input_key": "txt", "target": t, "params": p} for t, p in texts]
    for key in sizes:
        target = f"{encoders}.ConcatTimestepEmbedderND"
        embedders.append({"is_trainable": False, "input_key": key, "target": target, "params": {"outdim": 256}})
    denoiser = {
        "num_idx": 1000,
        "weighting_config": {"target": f"{diffusion}.denoiser_weighting.{kind}Weighting"},
        "scaling_config": {"target": f"{diffusion}.denoiser_scaling.{kind}Scaling"},
        "discretization_config": {"target": f"{diffusion}.discretizer.LegacyDDPMDiscretization"},
    }
    return {
        "target": "sgm.models.diffusion.DiffusionEngine",
        "params": {
            "scale_factor": 0.13025,
            "disable_first_stage_autocast": True,
            "denoiser_config": {"target": f"{diffusion}.denoiser.DiscreteDenoiser", "params": denoiser},
            "network_config": {"target": f"{diffusion}.openaimodel.UNetModel", "params": unet},
            "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
            "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "params": VAE},
        },
    }


if __name__ == "__main__":
    main()
