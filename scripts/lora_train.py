"""The only script that the WebUI runs: registers the extension's parts with its callbacks."""

from modules import script_callbacks

from lib_lora_train import webui

script_callbacks.on_before_ui(webui.add_axes)
script_callbacks.on_ui_tabs(webui.tabs)
script_callbacks.on_app_started(lambda _, app: webui.add_api(app))
