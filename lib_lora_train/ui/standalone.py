"""The tab as a page of its own, without a WebUI, on a checkpoint file."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr

from lib_lora_train.config import CheckpointConfig, expanded_path
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.hosts.standalone import StandaloneHost, default_device
from lib_lora_train.safe_paths import PathPolicy, readable_folder
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.gradio_versions import MAJOR, browser_only
from lib_lora_train.ui.tab import build_tab

TITLE = "LoRA Train"
ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_SETTINGS = {"resolution": 64, "batch_size": 4, "learning_rate": 2e-3, "sample_cfg_scale": 5.0}
"""Defaults that suit the embedded checkpoint, which generates 64x64 images."""


def make_environment(output: Path, checkpoint: Path = CHECKPOINT, *, listen: bool = False) -> Environment:
    """An environment that writes to folders in `output`.

    With `listen`, anyone on the network can use the page, so it reads only uploaded images and only `checkpoint`.
    """
    datasets = output / "datasets"
    policy = PathPolicy(allow_any=not listen, roots=[datasets])

    def make_host(config: CheckpointConfig) -> Host:
        if listen and Path(config.checkpoint) != checkpoint:
            raise UserError(
                "Others can reach this server, so only the checkpoint it was started with can be used.",
                field="checkpoint",
            )
        return StandaloneHost(replace(config, tokenizer="" if listen else config.tokenizer), default_device())

    return Environment(
        title=TITLE,
        make_host=make_host,
        lora_dir=output / "models" / "Lora",
        data_dir=output,
        shares_checkpoint=False,
        readable=lambda text: readable_folder(text, policy),
        expanded=(lambda text, field: text) if listen else expanded_path,
    )


def build_page(environment: Environment, checkpoint: Path = CHECKPOINT) -> tuple[gr.Blocks, TrainingService]:
    """The tab with the style sheet and script that a WebUI would load."""
    defaults: dict[str, object] = {"checkpoint": str(checkpoint)}
    if checkpoint == CHECKPOINT:
        defaults |= EMBEDDED_SETTINGS
    service = TrainingService(environment)
    blocks = build_tab(service, defaults)
    script = f"() => {{ {(ROOT / 'javascript' / 'lora_train.js').read_text(encoding='utf-8')} return []; }}"
    blocks.title = environment.title
    blocks.css = (ROOT / "style.css").read_text(encoding="utf-8")
    if MAJOR < 4:
        with blocks:
            blocks.load(**browser_only(script))
    else:
        blocks.js = script
    return blocks, service


def serve(output: Path, checkpoint: Path = CHECKPOINT, port: int = 7860, *, listen: bool = False) -> int:
    """Serves the page until Ctrl-C. A run that is training then is stopped and can be resumed.

    Raises:
        UserError: when the port is in use.
    """
    output = output.expanduser().resolve()
    blocks, service = build_page(make_environment(output, checkpoint, listen=listen), checkpoint)
    try:
        with _in_an_empty_folder():
            blocks.launch(
                server_name="0.0.0.0" if listen else "127.0.0.1",
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                show_api=False,
            )
    except OSError:
        raise UserError(f"--port: {port} is in use. Choose another one.") from None
    print(f"{TITLE} is running at http://127.0.0.1:{port} and saves to {output}. Press Ctrl-C to quit.", flush=True)
    _wait_for_interrupt()
    print("Quitting. A run in progress is saved first.", flush=True)
    service.queue.close()
    blocks.close(verbose=False)
    return 0


@contextlib.contextmanager
def _in_an_empty_folder() -> Iterator[None]:
    """Gradio 3 lets everyone read the folder that is the working folder when its server starts."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            yield
        finally:
            os.chdir(before)


def _wait_for_interrupt() -> None:
    """Waits for Ctrl-C or SIGTERM."""
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: interrupted.set())
    while not interrupted.wait(0.5):  # without a timeout, Windows would not handle Ctrl-C
        pass
