"""SD 2 and SDXL in a real WebUI: our text features and UNet beside its own, and our adapters in its hands.

    python tests/integration/check_families.py PATH-OF-A-WEBUI

Writes small random checkpoints in the layouts of SD 2 and SDXL, with what the WebUI has to know of their sizes beside
each, lets it load them, and trains an adapter on each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402

from lib_lora_train.adapters.formats.kohya import load_adapter  # noqa: E402
from lib_lora_train.embedded import DEMO_IMAGES  # noqa: E402
from tests.families import write_family  # noqa: E402
from tests.integration.forge_sizes import ForgeSizes, config_in  # noqa: E402
from tests.integration.webui import WebUI, start_real  # noqa: E402

PROMPTS = ("", "a red circle on a white background", " ".join(["photo of a blue cat on white"] * 14))
TRIGGER = "q"
"""One letter, which the small tokenizer and OpenCLIP's own give the same number: A1111 looks words up by the first's."""
WORDY = f"a {TRIGGER} circle beside {TRIGGER}"
MOST_DIFFERENT = 1e-4
VERSIONS = {"sd2": "SD2", "sdxl": "SDXL", "sdxl-v": "SDXL", "sdxl-marked": "SDXL"}
PREDICTIONS = {"sd2": "v", "sdxl": "epsilon", "sdxl-v": "v", "sdxl-marked": "v"}
MARKS = {"sdxl-v": ("ztsnr",), "sdxl-marked": ("v_pred", "ztsnr")}
"""Empty tensors in the files; the yaml beside sdxl-marked speaks of noise, as the one of SDXL does that a WebUI takes."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        extension = data / "extensions" / "zz-lora-train-families"
        webui = start_real(chosen.webui.resolve(), data, before=lambda: prepare(data, extension))
        try:
            faults = [fault for name in VERSIONS for fault in check(webui, name)]
        finally:
            webui.close()
    print("\n".join(faults) or "all is well")
    sys.exit(bool(faults))


def prepare(data: Path, extension: Path) -> None:
    """The second extension, and the checkpoints with their configs."""
    extension.symlink_to(Path(__file__).parent / "families_extension")
    models = data / "models" / "Stable-diffusion"
    for name in VERSIONS:
        path = write_family(models, name.partition("-")[0], MARKS.get(name, ()), words=49408, name=name)
        config = sd2_config() if name == "sd2" else sdxl_config(path, "v" if name == "sdxl-v" else "epsilon")
        path.with_suffix(".yaml").write_text(yaml.safe_dump({"model": config}), encoding="utf-8")
        forge_sizes(name, path).write_beside(path)


def check(webui: WebUI, name: str) -> list[str]:
    """What is wrong with the family `name`; prints what was seen."""
    webui.call("POST", "/sdapi/v1/refresh-checkpoints")
    webui.call("POST", "/sdapi/v1/options", {"live_previews_enable": False})  # SDXL's would be downloaded first
    webui.load_checkpoint(f"{name}.safetensors")
    faults = []
    for prompt in PROMPTS:
        seen = webui.call("POST", "/lora-train-families/compare", {"prompt": prompt}).body
        print(f"{name} {prompt[:20]!r}: {seen}", flush=True)
        if not isinstance(seen, dict) or "text" not in seen:
            print((webui.data / "log.txt").read_text(errors="replace")[-15000:])
            return [f"{name}: {seen}"]
        differences = [seen["text"], seen.get("pooled", 0.0), seen["unet"]]
        faults += [f"{name}: differs by {max(differences)}"] if not max(differences) <= MOST_DIFFERENT else []
        faults += (
            [f"{name}: {seen['shared']} of {seen['parameters']} shared"] if seen["shared"] != seen["parameters"] else []
        )
        right = seen["prediction"] == PREDICTIONS[name] and seen["zero_terminal_snr"] == (name in MARKS)
        faults += [] if right else [f"{name}: {seen}"]
    return faults + check_adapter(webui, name)


def check_adapter(webui: WebUI, name: str) -> list[str]:
    """Trains UNet and text encoders for a few steps, and looks at the images with and without the tag."""
    image, run = webui.draw(PROMPTS[1]), f"on {name}"
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
    reads_words = webui.kind == "A1111"  # which the others leave in the file unread
    if reads_words:
        settings |= {"trigger_word": TRIGGER, "trigger_vectors": 2, "embedding_learning_rate": 0.1}
    answer = webui.start(**settings)
    job = webui.wait(run, "finished", "failed") if answer.status == 200 else answer.body
    if job.get("state") != "finished":
        return [f"{name}: {job}"]
    file = load_adapter(webui.data / "models" / "Lora" / run / f"{run}.safetensors")
    seen = webui.call("POST", "/lora-train-families/matches", {"name": run}).body
    word = webui.call("POST", "/lora-train-families/word", {"name": run, "prompt": WORDY}).body if reads_words else {}
    tagged, after = webui.draw(f"{PROMPTS[1]} <lora:{run}:1>"), webui.draw(PROMPTS[1])
    print(
        f"{name}: {len(file.layers)} layers, {seen}; with its word {word}; the tag changes the image: {tagged != image}; it comes back: {after == image}"
    )
    found = {
        f"{seen['layers']} of {len(file.layers)} layers matched": seen["layers"] == len(file.layers),
        f"the WebUI says {seen['unmatched']}": not seen["unmatched"],
        f"shown as {seen['version']}": seen["version"] == VERSIONS[name],
        f"its word differs: {word}": not reads_words
        or max(word["text"], word.get("pooled", 0.0)) <= MOST_DIFFERENT < word["changed"],
        "the tag changes nothing": tagged != image,
        "the image does not come back": after == image,
    }
    return [f"{name}: {fault}" for fault, right in found.items() if not right]


def forge_sizes(name: str, path: Path) -> ForgeSizes:
    """What Forge has to know."""
    open_clip = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "projection_dim": 64,
    }
    vae = {"block_out_channels": [32 * factor for factor in VAE["ddconfig"]["ch_mult"]], "layers_per_block": 1}
    if name == "sd2":  # Forge leaves out the last layer
        text = {"text_encoder": open_clip | {"num_hidden_layers": 2}}
        return ForgeSizes("SD20", {"context_dim": 64, "model_channels": 64}, {"vae": vae, **text})
    unet = {"context_dim": 96, "model_channels": 64, "transformer_depth": [0, 0, 2, 2], "adm_in_channels": 64 + 6 * 256}
    texts = {"text_encoder": config_in(path.with_suffix("")), "text_encoder_2": open_clip}
    return ForgeSizes("SDXL", unet, {"vae": vae, **texts}, {"tokenizer": str(path.with_suffix(""))})


def sd2_config() -> dict:
    """As v2-inference-v.yaml, at the small sizes."""
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
    """As sd_xl_base.yaml, at the small sizes."""
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
