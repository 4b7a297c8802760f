"""An extension for the integration tests: hashes the WebUI's weights, makes a stage of a run fail, and holds runs."""

import hashlib
import threading
import time
import weakref
from collections import defaultdict

from fastapi import Body
from modules import script_callbacks, sd_models

from lib_lora_train.hosts.attachment import Attachment
from lib_lora_train.training import checkpointer, evaluator, session
from lib_lora_train.training.tasks import base, captioned

STAGES = {
    "lease": (Attachment, "attach"),
    "view": (session, "open_denoiser"),
    "cache": (base.TaskContext, "encode_images"),
    "inject": (session, "make_adapter"),
    "step": (session.Loop, "run_until"),
    "save": (checkpointer, "save_adapter"),
    "samples": (evaluator.Evaluator, "_generate_samples"),
    "validation": (captioned, "validation_losses"),
    "release": (Attachment, "changed"),
}
ORIGINALS = {stage: owner.__dict__[name] for stage, (owner, name) in STAGES.items()}
SESSIONS = weakref.WeakSet()
PREPARE = session.Session._prepare
SLICE = session.Session._slice
MAY_CONTINUE = threading.Event()
MAY_CONTINUE.set()
TIMES = defaultdict(dict)


def prepare_and_record(self):
    SESSIONS.add(self)
    PREPARE(self)
    TIMES[self.run.config.run.name]["ready"] = time.time()


def slice_when_not_held(self):
    """Waits between two slices, where a run does not hold the WebUI's lock."""
    if self.run.step:
        MAY_CONTINUE.wait()
    SLICE(self)
    TIMES[self.run.config.run.name].setdefault("first step", time.time())


def times():
    """Name of a run -> when it was ready to train and when its first slice ended, in seconds since 1970."""
    return TIMES


session.Session._prepare = prepare_and_record
session.Session._slice = slice_when_not_held


def parts():
    """UNet, VAE and text encoder of the WebUI's checkpoint, with LoRAs removed."""
    from lib_lora_train.hosts.webui import a1111_model
    from lib_lora_train.hosts.webui.detect import detect_webui

    model = sd_models.model_data.sd_model
    internals = getattr(detect_webui().make_host, "keywords", {}).get("internals")
    if internals is None:
        a1111_model.undo_merged_loras(model)
        return model.model.diffusion_model, model.first_stage_model, model.cond_stage_model.wrapped.transformer
    internals.undo_loras(model)
    own = model.forge_objects_original
    return own.unet.model.diffusion_model, own.vae.first_stage_model, own.clip.cond_stage_model.clip_l.transformer


def weights():
    """A hash of the WebUI's weights and of their dtypes, devices and flags."""
    digest = hashlib.sha256()
    for part in parts():
        for name, parameter in part.named_parameters():
            digest.update(f"{name} {parameter.dtype} {parameter.device} {parameter.requires_grad}".encode())
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return {"hash": digest.hexdigest()}


def sharing():
    """How many parameters the views of the running sessions have, and how many of them use the WebUI's own storage."""
    own = {parameter.untyped_storage().data_ptr() for part in parts() for parameter in part.parameters()}
    views = [view for running in SESSIONS for view in running.run.checkpoint.views]
    parameters = [parameter for view in views for parameter in view.parameters.values()]
    return {"parameters": len(parameters), "shared": sum(p.untyped_storage().data_ptr() in own for p in parameters)}


def fault(stage: str = Body("", embed=True)):
    """Makes `stage` raise; "" restores all stages."""

    def fail(*args, **kwargs):
        raise RuntimeError(f"{stage} was made to fail")

    for name, (owner, attribute) in STAGES.items():
        setattr(owner, attribute, fail if name == stage else ORIGINALS[name])


def hold(on: bool = Body(embed=True)):
    """Holds every run after its first slice, until this is called with false."""
    (MAY_CONTINUE.clear if on else MAY_CONTINUE.set)()


def add_routes(_, app):
    app.add_api_route("/lora-train-checks/weights", weights, methods=["GET"])
    app.add_api_route("/lora-train-checks/sharing", sharing, methods=["GET"])
    app.add_api_route("/lora-train-checks/times", times, methods=["GET"])
    app.add_api_route("/lora-train-checks/fault", fault, methods=["POST"])
    app.add_api_route("/lora-train-checks/hold", hold, methods=["POST"])


script_callbacks.on_app_started(add_routes)
