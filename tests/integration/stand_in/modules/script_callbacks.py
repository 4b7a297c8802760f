"""script_callbacks.py: the callbacks that extensions register."""

app_started = []
on_app_started = app_started.append


def on_before_ui(callback):
    pass


def on_ui_tabs(callback):
    pass
