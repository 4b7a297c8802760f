"""An image drawn by the WebUI, as far as it can be seen without one: what it is asked, and that it is always let go."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.hosts.webui.txt2img import generate


class State:
    """The WebUI's record of what it does."""

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
    """The parts of `modules` that are used; `asked` is the last request."""
    found = SimpleNamespace(state=State(), asked=None)

    def process_images(p: Processing) -> SimpleNamespace:
        found.asked = p
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


WISH = Txt2ImgRequest(prompt="a dog", negative="", seed=3, width=64, height=32, sampler="euler", steps=4, guidance=5.0)


def test_an_image_is_drawn_with_no_scripts_and_saved_nowhere(webui):
    assert generate(WISH).size == (64, 32)
    assert (webui.asked.prompt, webui.asked.seed, webui.asked.sampler_name) == ("a dog", 3, "Euler")
    assert webui.asked.do_not_save_samples
    assert webui.asked.closed
    assert webui.state.jobs == []


def test_an_interruption_is_said_and_the_webui_is_let_go(webui):
    webui.state.interrupted = True
    with pytest.raises(UserError, match="was interrupted"):
        generate(WISH)
    assert webui.state.jobs == []
