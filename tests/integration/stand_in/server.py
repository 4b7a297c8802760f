"""The stand-in's HTTP API: the part of /sdapi/v1 that the suite uses, and the extensions' API."""

import argparse
import base64
import io
import re
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the stand-in's `modules` and `networks`

import networks
import torch
import uvicorn
from fastapi import Body, FastAPI
from modules import call_queue, paths, script_callbacks, sd_models, shared

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.webui import a1111
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import SamplingOptions, generate
from tests.integration.webui import ROOT

TAG = re.compile(r"<lora:([^:>]+):([^>]+)>")
torch.set_num_threads(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir")
    parser.add_argument("--port", type=int)
    values = parser.parse_args()
    paths.data_path = values.data_dir
    shared.cmd_opts.lora_dir = str(Path(values.data_dir) / "models" / "Lora")
    sd_models.load_model(checkpoint("shapes.safetensors"))
    runpy.run_path(str(ROOT / "scripts" / "lora_train.py"))
    runpy.run_path(str(Path(__file__).parents[1] / "extension" / "scripts" / "zz_lora_train_checks.py"))
    app = make_app()
    for callback in script_callbacks.app_started:
        callback(None, app)
    uvicorn.run(app, host="127.0.0.1", port=values.port, log_level="warning")


def make_app():
    app = FastAPI()

    @app.post("/sdapi/v1/txt2img")
    def txt2img(request: dict = Body()):
        with call_queue.queue_lock:
            image = image_of(request)
        file = io.BytesIO()
        image.save(file, format="PNG")
        return {"images": [base64.b64encode(file.getvalue()).decode()]}

    @app.post("/sdapi/v1/options")
    def options(values: dict = Body()):
        with call_queue.queue_lock:
            if name := values.get("sd_model_checkpoint"):
                sd_models.load_model(checkpoint(name))
            if name := values.get("sd_vae"):
                sd_models.load_vae(None if name == "None" else Path(paths.data_path) / "models" / "VAE" / name)

    @app.post("/sdapi/v1/interrupt")
    def interrupt():
        shared.state.interrupt()

    return app


def checkpoint(name):
    return Path(paths.data_path) / "models" / "Stable-diffusion" / name


def image_of(request):
    """One image, generated with the model's own weights after the LoRAs of its prompt were merged into them."""
    networks.load_networks([(name, float(strength)) for name, strength in TAG.findall(request["prompt"])])
    networks.merge_loaded()
    denoiser = open_denoiser(a1111.A1111Host(CheckpointConfig()).describe(), CheckpointConfig())
    options = SamplingOptions(request["width"], request["height"], steps=request["steps"])
    return generate(denoiser, [TAG.sub("", request["prompt"])], "", [request["seed"]], options)[0]


if __name__ == "__main__":
    main()
