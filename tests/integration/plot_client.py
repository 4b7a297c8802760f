"""Generates images and X/Y/Z grids with a running WebUI, by its HTTP API."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from PIL import Image

RUN, EPOCH, STRENGTH = "[LoRA Train] Run", "[LoRA Train] Epoch", "[LoRA Train] Strength"
NO_AXIS = ("Nothing", [])
OPTIONS = (False, True, False, False, False, False, False, 0)
"""Of a plot: no legend, single images, no sub-grids, seeds kept and not varied, no margin."""
REFORGE_OPTIONS = (False, False, False, 0, *OPTIONS[1:])
"""The same in reForge, with: no labels on single images, a grid, any number of images."""
NOT_READY = "Script.run() missing"
SCRIPT_SECONDS = 30
Axis = tuple[str, Sequence[str]]
"""(label, values)."""


class RefusedError(Exception):
    """The WebUI responded with an error."""


class ScriptNotReadyError(RefusedError):
    """The WebUI called a script without arguments."""


@dataclass
class GeneratedImage:
    pixels: str
    """Their SHA-256."""
    infotext: str


@dataclass
class PlotClient:
    """A running WebUI at `url`. `settings`: of every image."""

    url: str
    settings: dict[str, Any] = field(
        default_factory=lambda: {
            "width": 64,
            "height": 64,
            "steps": 8,
            "sampler_name": "DDIM",
            "cfg_scale": 5,
            "seed": 7,
        }
    )

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            reply = error.read().decode()
            raise (ScriptNotReadyError if NOT_READY in reply else RefusedError)(reply) from None

    def generate(self, prompt: str, endpoint: str = "txt2img", **more: Any) -> list[GeneratedImage]:
        """The images, without the grid that a plot begins with."""
        response = self.call(f"/sdapi/v1/{endpoint}", {**self.settings, "prompt": prompt, **more})
        images = [_decoded(image) for image in response["images"]]
        return images[1:] if "script_name" in more else images

    def plot_arguments(self, endpoint: str) -> list[dict[str, Any]]:
        infos = self.call("/sdapi/v1/script-info")
        return next(i for i in infos if i["name"] == "x/y/z plot" and i["is_img2img"] == (endpoint == "img2img"))[
            "args"
        ]

    def axis_labels(self, endpoint: str) -> list[str]:
        return self.plot_arguments(endpoint)[0]["choices"]

    def grid(
        self,
        prompt: str,
        x: Axis,
        y: Axis = NO_AXIS,
        z: Axis = NO_AXIS,
        csv: bool = False,
        endpoint: str = "txt2img",
        **more: Any,
    ) -> list[GeneratedImage]:
        """The cells; X varies fastest and Z slowest."""
        arguments = self.plot_arguments(endpoint)
        labels, reforge = arguments[0]["choices"], len(arguments) == len(REFORGE_OPTIONS) + 10
        axes = [part for axis in (x, y, z) for part in (labels.index(axis[0]), *_slots(axis, csv))]
        plot = {
            "script_name": "x/y/z plot",
            "script_args": [*axes, *(REFORGE_OPTIONS if reforge else OPTIONS), csv],
        }
        return self._when_scripts_are_ready(lambda: self.generate(prompt, endpoint, **plot, **more))

    def _when_scripts_are_ready(self, work: Callable[[], list[GeneratedImage]]) -> list[GeneratedImage]:
        """For some seconds after Reload UI, Forge and reForge call every script without its arguments."""
        for _ in range(SCRIPT_SECONDS):
            with contextlib.suppress(ScriptNotReadyError):
                return work()
            time.sleep(1)
        return work()

    def reload_interface(self) -> None:
        config, before = self.call("/config"), self.call("/app_id")
        button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "settings_restart_gradio")
        index = next(
            i
            for i, d in enumerate(config["dependencies"])
            if [button, "click"] in d["targets"] or button in d["targets"]
        )
        self.call("/run/predict", {"fn_index": index, "data": [], "session_hash": "check"})
        for _ in range(
            120
        ):  # the WebUI checks every five seconds whether to reload, and then does not respond for a while
            time.sleep(0.5)
            with contextlib.suppress(OSError, HTTPException, RefusedError):
                if self.call("/app_id") != before and self.call("/sdapi/v1/script-info"):
                    return
        raise TimeoutError("The interface was not reloaded within a minute.")


def _slots(axis: Axis, csv: bool) -> tuple[str, list[str]]:
    """(text, dropdown). An axis without choices, such as Seed, always reads its text."""
    label, values = axis
    return ", ".join(values), [] if csv or label not in (RUN, EPOCH, STRENGTH) else list(values)


def _decoded(image: str) -> GeneratedImage:
    with Image.open(io.BytesIO(base64.b64decode(image))) as decoded:
        pixels = hashlib.sha256(decoded.convert("RGB").tobytes()).hexdigest()
        return GeneratedImage(pixels, decoded.info.get("parameters", ""))
