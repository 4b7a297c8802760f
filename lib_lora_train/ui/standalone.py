"""The tab without a WebUI, on a checkpoint from its file."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.embedded import CHECKPOINT
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.place import Place
from lib_lora_train.hosts.standalone import StandaloneHost, default_device
from lib_lora_train.safe_paths import PathPolicy, readable_folder
from lib_lora_train.ui.gradio_versions import MAJOR, browser_only
from lib_lora_train.ui.tab import build_tab
from lib_lora_train.workshop import Workshop

TITLE = "LoRA Train"
ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_SETTINGS = {"resolution": 64, "batch_size": 4, "learning_rate": 2e-3, "preview_guidance": 5.0}
"""What suits the embedded checkpoint, which is a miniature."""


def make_place(output: Path, checkpoint: Path = CHECKPOINT, *, listen: bool = False) -> Place:
    """The folders under `output`. With `listen` strangers may be there: then only dropped images can be used, and only
    `checkpoint`."""
    datasets = output / "datasets"
    policy = PathPolicy(allow_any=not listen, roots=[datasets])

    def make_host(config: CheckpointConfig) -> Host:
        if listen and Path(config.checkpoint) != checkpoint:
            raise UserError("checkpoint: others can reach this server, so only the one given at its start can be used.")
        return StandaloneHost(replace(config, tokenizer="" if listen else config.tokenizer), default_device())

    return Place(
        title=TITLE,
        make_host=make_host,
        lora_dir=output / "models" / "Lora",
        data_dir=output,
        lends_checkpoint=False,
        readable=lambda text: readable_folder(text, policy),
    )


def build_page(place: Place, checkpoint: Path = CHECKPOINT) -> tuple[gr.Blocks, Workshop]:
    """The tab as a page of its own, with the style and the browser side that a WebUI loads by itself."""
    defaults: dict[str, Any] = {"checkpoint": str(checkpoint)}
    if checkpoint == CHECKPOINT:
        defaults |= EMBEDDED_SETTINGS
    workshop = Workshop(place)
    blocks = build_tab(workshop, defaults)
    script = f"() => {{ {(ROOT / 'javascript' / 'lora_train.js').read_text(encoding='utf-8')} return []; }}"
    blocks.title = place.title
    blocks.css = (ROOT / "style.css").read_text(encoding="utf-8")
    if MAJOR < 4:
        with blocks:
            blocks.load(**browser_only(script))
    else:
        blocks.js = script
    return blocks, workshop


def serve(output: Path, checkpoint: Path = CHECKPOINT, port: int = 7860, *, listen: bool = False) -> int:
    """Opens the page and stays until Ctrl-C; a run that trains then is stopped so that it can be resumed.

    Raises:
        UserError: when the port is taken.
    """
    output = output.expanduser().resolve()
    blocks, workshop = build_page(make_place(output, checkpoint, listen=listen), checkpoint)
    try:
        blocks.launch(
            server_name="0.0.0.0" if listen else "127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, show_api=False
        )
    except OSError:
        raise UserError(f"--port: {port} is in use. Choose another one.") from None
    print(f"{TITLE} is open at http://127.0.0.1:{port} and writes to {output}. Ctrl-C ends it.", flush=True)
    _wait_for_the_end()
    print("Ending. A run that trains is saved first.", flush=True)
    workshop.jobs.close()
    blocks.close(verbose=False)
    return 0


def _wait_for_the_end() -> None:
    """Until Ctrl-C, or until the system asks the program to end."""
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, frame: ended.set())
    while not ended.wait(0.5):  # without a limit, Windows would not see the Ctrl-C
        pass
