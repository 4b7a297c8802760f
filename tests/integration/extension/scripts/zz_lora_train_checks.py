"""An extension for the integration tests: looks into the WebUI's process, makes a stage of a run fail, and holds runs."""

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
    "preview": (evaluator.Evaluator, "_generate_samples"),
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


def remembered(self):
    SESSIONS.add(self)
    PREPARE(self)
    TIMES[self.run.config.run.name]["ready"] = time.time()


def held(self):
    """Waits between two slices, where a run holds nothing of the WebUI's."""
    if self.run.step:
        MAY_CONTINUE.wait()
    SLICE(self)
    TIMES[self.run.config.run.name].setdefault("first step", time.time())


def times():
    """When runs were ready to train, and when their first slice was over, by their names; seconds since 1970."""
    return TIMES


session.Session._prepare = remembered
session.Session._slice = held


def parts():
    """UNet, VAE and text encoder of the checkpoint that the WebUI draws with, without LoRAs."""
    from lib_lora_train.hosts.webui import a1111
    from lib_lora_train.hosts.webui.detect import detect_webui

    model = sd_models.model_data.sd_model
    internals = getattr(detect_webui().make_host, "keywords", {}).get("internals")
    if internals is None:
        a1111.undo_merged_loras(model)
        return model.model.diffusion_model, model.first_stage_model, model.cond_stage_model.wrapped.transformer
    internals.undo_loras(model)
    own = model.forge_objects_original
    return own.unet.model.diffusion_model, own.vae.first_stage_model, own.clip.cond_stage_model.clip_l.transformer


def weights():
    """A hash of every weight that the WebUI draws with, and of where and what it is."""
    digest = hashlib.sha256()
    for part in parts():
        for name, parameter in part.named_parameters():
            digest.update(f"{name} {parameter.dtype} {parameter.device} {parameter.requires_grad}".encode())
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return {"hash": digest.hexdigest()}


def sharing():
    """How many parameters the running session's views have, and how many of them are the WebUI's own storage."""
    own = {parameter.untyped_storage().data_ptr() for part in parts() for parameter in part.parameters()}
    views = [view for running in SESSIONS for view in running.run.checkpoint.views]
    checkpoint = [parameter for view in views for parameter in view.parameters.values()]
    return {"parameters": len(checkpoint), "shared": sum(p.untyped_storage().data_ptr() in own for p in checkpoint)}


def fault(stage: str = Body("", embed=True)):
    """Makes `stage` raise; "" restores all stages."""

    def fail(*args, **kwargs):
        raise RuntimeError(f"{stage} was made to fail")

    for name, (owner, attribute) in STAGES.items():
        setattr(owner, attribute, fail if name == stage else ORIGINALS[name])


def hold(on: bool = Body(embed=True)):
    """Holds every run after its first slice, until it is called with false."""
    (MAY_CONTINUE.clear if on else MAY_CONTINUE.set)()


def add_routes(_, app):
    app.add_api_route("/lora-train-checks/weights", weights, methods=["GET"])
    app.add_api_route("/lora-train-checks/sharing", sharing, methods=["GET"])
    app.add_api_route("/lora-train-checks/times", times, methods=["GET"])
    app.add_api_route("/lora-train-checks/fault", fault, methods=["POST"])
    app.add_api_route("/lora-train-checks/hold", hold, methods=["POST"])


script_callbacks.on_app_started(add_routes)
