"""Captioners, on stand-ins for the WebUI's interrogators."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import pytest
from PIL import Image

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.webui.captioners import captioners

PICTURE = Image.new("RGB", (8, 8))


class Interrogator:
    """As modules.interrogate: unload() may be called at any time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []

    def load(self):
        self.calls.append("load")
        if self.error:
            raise self.error

    def generate_caption(self, image):
        self.calls.append("caption")
        return f"a picture of {image.width} pixels"

    def unload(self):
        self.calls.append("unload")


class DeepDanbooru:
    """As modules.deepbooru: stop() fails unless a model is there, and tags are escaped and may carry ranks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls, self.model = error, [], None

    def start(self):
        self.calls.append("start")
        if self.error:
            raise self.error
        self.model = SimpleNamespace(to=lambda device: None)

    def tag_multi(self, image, force_disable_ranks=False):
        self.calls.append("tag")
        return r"1girl, miku \(vocaloid\), \o/" if force_disable_ranks else "(1girl:0.987)"

    def stop(self):
        self.calls.append("stop")
        self.model.to("cpu")


@pytest.fixture
def webui(monkeypatch):
    """webui(interrogator, deepdanbooru): puts the WebUI's package `modules` in place."""

    def put(interrogator=None, deepdanbooru=None):
        modules = ModuleType("modules")
        modules.shared = SimpleNamespace(interrogator=interrogator)
        modules.deepbooru = SimpleNamespace(model=deepdanbooru)
        monkeypatch.setitem(sys.modules, "modules", modules)

    return put


def test_listing_the_captioners_loads_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "modules", None)  # importing it would raise
    assert list(captioners()) == ["BLIP", "DeepDanbooru"]


def test_blip_is_loaded_once_for_many_images_and_unloaded(webui):
    blip = Interrogator()
    webui(blip)
    with captioners()["BLIP"]() as caption_image:
        assert [caption_image(PICTURE) for _ in range(2)] == ["a picture of 8 pixels"] * 2
    assert blip.calls == ["load", "caption", "caption", "unload"]


def test_deepdanbooru_gives_tags_without_escapes_and_weights(webui):
    model = DeepDanbooru()
    webui(deepdanbooru=model)
    with captioners()["DeepDanbooru"]() as caption_image:
        assert caption_image(PICTURE) == r"1girl, miku (vocaloid), \o/"
    assert model.calls == ["start", "tag", "stop"]


@pytest.mark.parametrize("name", ["BLIP", "DeepDanbooru"])
class TestAlways:
    def make(self, webui, error=None):
        both = Interrogator(error), DeepDanbooru(error)
        webui(*both)
        return both

    def test_the_model_is_unloaded_after_an_error(self, webui, name):
        both = self.make(webui)
        with pytest.raises(ZeroDivisionError), captioners()[name]():
            raise ZeroDivisionError
        assert both[name != "BLIP"].calls[-1] in ("unload", "stop")

    @pytest.mark.parametrize(
        "error", [IndexError("list index out of range"), URLError("no network"), ConnectionError()]
    )
    def test_a_failed_download_is_explained(self, webui, name, error):
        self.make(webui, error)
        with pytest.raises(UserError, match=f"{name} could not be downloaded"), captioners()[name]():
            pass

    def test_too_little_memory_is_explained(self, webui, name):
        self.make(webui, RuntimeError("CUDA out of memory. Tried"))
        with pytest.raises(UserError, match="free memory"), captioners()[name]():
            pass

    def test_every_other_reason_is_named(self, webui, name):
        self.make(webui, ModuleNotFoundError("No module named 'models'"))
        with (
            pytest.raises(UserError, match=rf"{name} could not be loaded \(No module named 'models'\)"),
            captioners()[name](),
        ):
            pass

    def test_a_model_that_failed_to_load_is_unloaded(self, webui, name):
        blip, tagger = self.make(webui, RuntimeError("half"))
        with pytest.raises(UserError), captioners()[name]():
            pass
        assert "stop" not in tagger.calls  # nothing was started, so that the WebUI's stop() would fail
        if name == "BLIP":
            assert blip.calls == ["load", "unload"]
