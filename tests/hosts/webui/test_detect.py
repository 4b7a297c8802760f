"""Which WebUI a process is, by the names in its modules/sd_models.py; an unknown one is refused."""

from __future__ import annotations

import sys
import types

import pytest

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.hosts.webui.a1111 import A1111Host
from lib_lora_train.hosts.webui.detect import detect_webui
from lib_lora_train.hosts.webui.forge_host import ForgeHost
from lib_lora_train.webui import add_api, add_axes, problem_message, tabs

A1111 = ["model_data", "load_model", "reuse_model_from_already_loaded", "apply_alpha_schedule_override"]
FORGE = ["model_data", "forge_model_reload"]
REFORGE = [*A1111, "forge_loader", "set_model_active", "load_model_to_device"]
CLASSIC = ["model_data", "load_model", "reuse_model_from_already_loaded", "forge_loader"]
SD_NEXT = ["load_diffuser", "reload_model_weights", "model_data"]


@pytest.fixture
def webui(monkeypatch):
    """webui(names): makes this process a WebUI whose sd_models has these names."""

    def make(names: list[str]) -> None:
        package, module = types.ModuleType("modules"), types.ModuleType("modules.sd_models")
        for name in names:
            setattr(module, name, object())
        package.sd_models = module
        monkeypatch.setitem(sys.modules, "modules", package)
        monkeypatch.setitem(sys.modules, "modules.sd_models", module)

    return make


@pytest.mark.parametrize(
    ("names", "title", "host"),
    [(A1111, "AUTOMATIC1111", A1111Host), (FORGE, "Forge", ForgeHost), (REFORGE, "reForge", ForgeHost)],
)
def test_a_supported_webui_is_detected(webui, names, title, host):
    webui(names)
    found = detect_webui()
    assert found.title == title
    assert isinstance(found.make_host(CheckpointConfig()), host)
    assert problem_message() == ""


@pytest.mark.parametrize("names", [CLASSIC, SD_NEXT, []], ids=["Forge Classic", "SD.Next", "another"])
class TestAnUnknownWebUI:
    def test_is_refused_with_the_webuis_that_are_supported(self, webui, names, complaint):
        webui(names)
        message = complaint(detect_webui)
        assert message.startswith("LoRA Train does not work in this WebUI.")
        assert "Forge or reForge" in message

    def test_gets_neither_axes_nor_api(self, webui, names):
        webui(names)
        add_axes()
        add_api(app=None)

    def test_gets_a_tab_with_the_message(self, webui, names):
        pytest.importorskip("gradio")
        webui(names)
        [(page, title, _)] = tabs()
        assert title == "LoRA Train"
        assert "does not work in this WebUI" in str(page.get_config_file())
