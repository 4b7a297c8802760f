"""Starts a WebUI in a process of its own, a real one or the stand-in, and talks to it by its HTTP API."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora_train.embedded import CHECKPOINT
from tests.integration.forge_sizes import embedded_sizes

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
FLAGS = "--skip-torch-cuda-test --skip-prepare-environment --api --no-download-sd-model"
ON_CPU = {
    "A1111": "--use-cpu all --no-half --do-not-download-clip --disable-nan-check",
    "Forge": "--always-cpu",
    "reForge": "--always-cpu",
}
"""Flags that differ between the WebUIs, to run them on a CPU."""
SETTINGS = {
    # Its live previews would download a model, and it would detect the wrong text encoder by its small width.
    "reForge": {"live_previews_enable": False, "sd_text_encoder": "None"},
}
"""Settings that a WebUI needs to generate with the small checkpoint without a network."""
STARTING_SECONDS = 180
RUN_SECONDS = 300


@dataclass
class Response:
    """An HTTP response."""

    status: int
    body: Any


@dataclass
class WebUI:
    """Talks to a running WebUI."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]
    kind: str
    start_again: Callable[[], WebUI]

    def call(self, method: str, path: str, body: Any = None) -> Response:
        """One request. An error status is returned like any other."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + urllib.parse.quote(path, safe="/?=&"), data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=RUN_SECONDS) as response:
                return Response(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            return Response(error.code, json.loads(error.read() or b"null"))

    def generate(self, prompt: str, steps: int = 6, seed: int = 1, **more: Any) -> bytes:
        """The pixels of one image."""
        request = {
            "prompt": prompt,
            "seed": seed,
            "steps": steps,
            "width": 64,
            "height": 64,
            "sampler_name": "DDIM",
            **more,
        }
        response = self.call("POST", "/sdapi/v1/txt2img", request)
        assert response.status == 200, response
        return Image.open(io.BytesIO(base64.b64decode(response.body["images"][0]))).convert("RGB").tobytes()

    def load_checkpoint(self, name: str) -> None:
        """Selects it as at the top of the page. Forge loads it with the next image, so one is generated there."""
        assert self.call("POST", "/sdapi/v1/options", {"sd_model_checkpoint": name}).status == 200
        if self.kind == "Forge":
            self.generate("", steps=1)

    def load_vae(self, name: str) -> None:
        """Selects it as in the settings, or at the top of Forge's page. "None" is the checkpoint's own."""
        path = str(self.data / "models" / "VAE" / name)
        forge = {"forge_additional_modules": [] if name == "None" else [path]}
        settings = forge if self.kind == "Forge" else {"sd_vae": name}
        assert self.call("POST", "/sdapi/v1/options", settings).status == 200
        if self.kind == "Forge":
            self.generate("", steps=1)
        if (
            self.kind == "reForge" and name == "None"
        ):  # it keeps the other VAE until a checkpoint is loaded (seen in 3b56b26)
            self.load_checkpoint("other.safetensors")
            self.load_checkpoint("shapes.safetensors")

    def weights(self) -> str:
        return self.call("GET", "/lora-train-checks/weights").body["hash"]

    def fail_at(self, stage: str) -> None:
        self.call("POST", "/lora-train-checks/fault", {"stage": stage})

    @contextlib.contextmanager
    def in_mid_run(self, **settings: Any) -> Iterator[None]:
        """Inside, a run has started and is held after its first slice."""
        self.call("POST", "/lora-train-checks/hold", {"on": True})
        try:
            assert self.start(**settings).status == 200
            self.wait_for_step(settings["name"], 1)
            yield
        finally:
            self.call("POST", "/lora-train-checks/hold", {"on": False})

    def start(self, **settings: Any) -> Response:
        """Starts a run with these settings."""
        return self.call("POST", "/lora-train/v1/runs", settings)

    def job(self, name: str) -> dict[str, Any]:
        return self.call("GET", f"/lora-train/v1/runs/{name}?since=0").body["job"] or {}

    def act(self, name: str, action: str) -> Response:
        return self.call("POST", f"/lora-train/v1/runs/{name}/{action}")

    def wait(self, name: str, *states: str, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """The run as soon as it is in one of `states`."""
        deadline = time.monotonic() + seconds
        while (job := self.job(name)).get("state") not in states:
            assert time.monotonic() < deadline, (
                f"{name} is {job.get('state')} at step {job.get('step')} after {seconds} s"
            )
            time.sleep(0.05)
        return job

    def wait_for_step(self, name: str, step: int) -> None:
        deadline = time.monotonic() + RUN_SECONDS
        while (job := self.job(name)).get("step", 0) < step:
            assert job.get("state") not in ("failed", "stopped", "finished"), job
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def adapter(self, name: str) -> bytes:
        return (self.data / "models" / "Lora" / name / f"{name}.safetensors").read_bytes()

    def kill_and_start_again(self) -> None:
        """As after a power failure."""
        self.process.kill()
        self.process.wait()
        fresh = self.start_again()
        self.url, self.process = fresh.url, fresh.process

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start_real(folder: Path, data: Path, flags: Sequence[str] = (), before: Callable[[], None] = lambda: None) -> WebUI:
    """The WebUI installed in `folder`, with its data in `data`, so that the installation is not changed.

    `before` is called before the start and may add files to `data`.
    """
    python = next(
        (path for path in (folder / "venv/bin/python", folder / "venv/Scripts/python.exe") if path.exists()), None
    )
    kind = kind_of(folder)
    command = [
        str(python or sys.executable),
        "launch.py",
        *f"{FLAGS} {ON_CPU[kind]}".split(),
        *flags,
        "--data-dir",
        str(data),
    ]
    extensions = data / "extensions"
    extensions.mkdir(parents=True)
    (extensions / "sd-webui-lora-train").symlink_to(ROOT)
    (extensions / "zz-lora-train-checks").symlink_to(Path(__file__).parent / "extension")
    add_checkpoints(data / "models" / "Stable-diffusion")
    before()
    return _start(command, folder, data, kind)


def kind_of(folder: Path) -> str:
    """Which WebUI is installed in `folder`, by its backend's folder."""
    if (folder / "ldm_patched").is_dir():
        return "reForge"
    return "Forge" if (folder / "backend").is_dir() else "A1111"


def start_stand_in(data: Path) -> WebUI:
    """The stand-in, with the same two extensions."""
    add_checkpoints(data / "models" / "Stable-diffusion")
    return _start([sys.executable, "-m", "tests.integration.stand_in.server", "--data-dir", str(data)], ROOT, data)


def add_checkpoints(models: Path) -> None:
    """Writes the embedded checkpoint, another one with other weights, and a VAE with other weights."""
    from safetensors.torch import load_file, save_file

    models.mkdir(parents=True)
    config = CHECKPOINT.with_suffix(".yaml").read_text(encoding="utf-8")
    shutil.copytree(CHECKPOINT.with_suffix(""), models / "tokenizer")
    tokenizer = (models / "tokenizer").as_posix()
    config = config.replace("models/Stable-diffusion/shapes-v1", tokenizer)
    shutil.copy(CHECKPOINT, models / "shapes.safetensors")
    other = load_file(CHECKPOINT)
    other["model.diffusion_model.out.2.bias"] += 0.25
    save_file(other, models / "other.safetensors")
    (models.parent / "VAE").mkdir()
    prefix = "first_stage_model."
    vae = {name.removeprefix(prefix): 1.01 * weight for name, weight in other.items() if name.startswith(prefix)}
    save_file(vae, models.parent / "VAE" / "other-vae.safetensors")
    for name in ("shapes", "other"):
        (models / f"{name}.yaml").write_text(config, encoding="utf-8")
        shutil.copytree(models / "tokenizer", models / name)
    embedded_sizes().write_beside(models / "shapes.safetensors")


def _start(command: list[str], folder: Path, data: Path, kind: str = "A1111") -> WebUI:
    """Starts the process and waits until it responds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "SD_WEBUI_RESTARTING": "1",  # opens no browser
    }
    with (data / "log.txt").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=folder, env=environment, stdout=log, stderr=log)
    again = functools.partial(_start, command, folder, data, kind)
    webui = WebUI(f"http://127.0.0.1:{port}", data, process, kind, again)
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            if webui.call("GET", "/lora-train/v1/runs").status == 200:
                break
        except (urllib.error.URLError, ConnectionError):
            pass
        log_text = (data / "log.txt").read_text(errors="replace")[-3000:]
        assert process.poll() is None, f"the WebUI exited:\n{log_text}"
        assert time.monotonic() < deadline, f"the WebUI does not respond:\n{log_text}"
        # A1111 does not start when a request comes after its page and before its API, so a real one gets few requests.
        time.sleep(0.2 if folder == ROOT else 3)
    if kind in SETTINGS:
        webui.call("POST", "/sdapi/v1/options", SETTINGS[kind])
    webui.load_checkpoint("shapes.safetensors")
    return webui
