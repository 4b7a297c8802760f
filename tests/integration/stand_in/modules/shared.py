"""shared.py: command line options, settings, and the loaded model."""

import types

from modules import sd_models

cmd_opts = types.SimpleNamespace(api=True, nowebui=False, api_auth=None, lora_dir="", listen=False, share=False)

opts = types.SimpleNamespace(sd_noise_schedule="Default")


class State:
    interrupted = False

    def begin(self, job=""):
        self.interrupted = False

    def end(self):
        pass

    def interrupt(self):
        self.interrupted = True


state = State()


def __getattr__(name):
    if name == "sd_model":
        return sd_models.model_data.sd_model
    raise AttributeError(name)
