"""The request that the WebUI's txt2img gets, and that its state is always ended."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui.txt2img import generate


class State:
    """The WebUI's `shared.state`."""

    interrupted = False

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def begin(self, job: str) -> None:
        self.jobs.append(job)

    def end(self) -> None:
        self.jobs.pop()


class Processing(SimpleNamespace):
    scripts = None

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def webui(monkeypatch) -> SimpleNamespace:
    """The parts of `modules` that are used; `request` is the last one."""
    found = SimpleNamespace(state=State(), request=None)

    def process_images(p: Processing) -> SimpleNamespace:
        found.request = p
        assert p.scripts.alwayson_scripts == [], "reForge looks for a script here without asking whether there are any"
        return SimpleNamespace(images=[Image.new("RGB", (p.width, p.height))])

    class ScriptRunner:
        def __init__(self) -> None:
            self.alwayson_scripts: list[object] = []

    parts = {
        "processing": SimpleNamespace(StableDiffusionProcessingTxt2Img=Processing, process_images=process_images),
        "scripts": SimpleNamespace(ScriptRunner=ScriptRunner),
        "shared": SimpleNamespace(sd_model="the model", state=found.state),
    }
    modules = ModuleType("modules")
    for name, part in parts.items():
        setattr(modules, name, part)
    monkeypatch.setitem(sys.modules, "modules", modules)
    return found


REQUEST = Txt2ImgRequest(
    prompt="a dog", negative="", seed=3, width=64, height=32, sampler="euler", steps=4, guidance=5.0
)


def test_an_image_is_generated_without_scripts_and_not_saved(webui):
    assert generate(REQUEST).size == (64, 32)
    assert (webui.request.prompt, webui.request.seed, webui.request.sampler_name) == ("a dog", 3, "Euler")
    assert webui.request.do_not_save_samples
    assert webui.request.closed
    assert webui.state.jobs == []


def test_an_interruption_is_an_error_and_ends_the_webuis_state(webui):
    webui.state.interrupted = True
    with pytest.raises(UserError, match="was interrupted"):
        generate(REQUEST)
    assert webui.state.jobs == []
