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
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.hosts.standalone import StandaloneHost, default_device
from lib_lora_train.safe_paths import PathPolicy, readable_folder
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.gradio_versions import MAJOR, browser_only
from lib_lora_train.ui.tab import build_tab

TITLE = "LoRA Train"
ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_SETTINGS = {"resolution": 64, "batch_size": 4, "learning_rate": 2e-3, "sample_cfg_scale": 5.0}
"""What suits the embedded checkpoint, which is a miniature."""


def make_environment(output: Path, checkpoint: Path = CHECKPOINT, *, listen: bool = False) -> Environment:
    """The folders under `output`. With `listen` strangers may be there: then only dropped images can be used, and only
    `checkpoint`."""
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
    )


def build_page(environment: Environment, checkpoint: Path = CHECKPOINT) -> tuple[gr.Blocks, TrainingService]:
    """The tab as a page of its own, with the style and the browser side that a WebUI loads by itself."""
    defaults: dict[str, Any] = {"checkpoint": str(checkpoint)}
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
    """Opens the page and stays until Ctrl-C; a run that trains then is stopped so that it can be resumed.

    Raises:
        UserError: when the port is taken.
    """
    output = output.expanduser().resolve()
    blocks, service = build_page(make_environment(output, checkpoint, listen=listen), checkpoint)
    try:
        blocks.launch(
            server_name="0.0.0.0" if listen else "127.0.0.1",
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            show_api=False,
        )
    except OSError:
        raise UserError(f"--port: {port} is in use. Choose another one.") from None
    print(f"{TITLE} is open at http://127.0.0.1:{port} and writes to {output}. Ctrl-C ends it.", flush=True)
    _wait_for_the_end()
    print("Ending. A run that trains is saved first.", flush=True)
    service.queue.close()
    blocks.close(verbose=False)
    return 0


def _wait_for_the_end() -> None:
    """Until Ctrl-C, or until the system asks the program to end."""
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, frame: ended.set())
    while not ended.wait(0.5):  # without a limit, Windows would not see the Ctrl-C
        pass
