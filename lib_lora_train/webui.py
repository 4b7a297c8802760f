"""The extension inside a WebUI: makes the tab, the API and the X/Y/Z axes from one service per process.

scripts/lora_train.py calls the functions here. The WebUI runs that script again whenever its interface is reloaded; this
module stays, and so do its runs. No package that install.py adds is imported before it is known to be installed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import signal
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_lora_train.errors import UserError
from lib_lora_train.missing_packages import missing_message

if typing.TYPE_CHECKING:
    from lib_lora_train.hosts.environment import Environment
    from lib_lora_train.service import TrainingService

TITLE = "LoRA Train"
TAB = "lora_train"


def tabs() -> list[tuple[Any, str, str]]:
    """The tab, for on_ui_tabs; a tab with a message when training is not possible."""
    from lib_lora_train.ui.message import message_page

    if problem := problem_message():
        return [(message_page(problem), TITLE, TAB)]
    from lib_lora_train.ui.tab import build_tab

    return [(build_tab(service()), TITLE, TAB)]


def problem_message() -> str:
    """Why training is not possible here: missing packages or an unknown WebUI; "" if it is."""
    if problem := missing_message():
        return problem
    from lib_lora_train.hosts.webui.detect import detect_webui

    try:
        detect_webui()
    except UserError as error:
        return str(error)
    return ""


def add_axes() -> None:
    """The axes in the X/Y/Z plot, for on_before_ui."""
    if problem_message():
        return
    from lib_lora_train.evaluation.xyz_axes import register

    register(lambda: service().environment.lora_dir)


def add_api(app: Any) -> None:
    """The HTTP API, for on_app_started, if the WebUI itself has one."""
    if problem_message():
        return
    from modules import shared

    if not (shared.cmd_opts.api or shared.cmd_opts.nowebui):
        return
    from lib_lora_train.api import add_routes

    add_routes(app, service(api=True), shared.cmd_opts.api_auth or "")


@functools.cache
def service(api: bool = False) -> TrainingService:
    """The service of this process. The API's differs only in the folders that its callers may read; the queue is the same."""
    from lib_lora_train.service import TrainingService

    if api:
        return TrainingService(_environment(api=True), service().queue)
    tab_service = TrainingService(_environment(api=False))
    atexit.register(tab_service.queue.close)
    close_on_signal(tab_service.queue.close)
    return tab_service


def close_on_signal(close: Callable[[], None]) -> None:
    """Calls `close` on SIGINT and SIGTERM, and then the previous handler.

    On Ctrl-C the WebUI ends with os._exit (initialize_util.py), and on SIGTERM Python ends at once: neither reaches
    atexit. A second signal ends the process without waiting for `close`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            signal.signal(number, _handler(close, signal.getsignal(number)))


def _handler(close: Callable[[], None], previous: Any) -> Callable[[int, Any], None]:
    def handle(number: int, frame: Any) -> None:
        signal.signal(number, previous if previous is not None else signal.SIG_DFL)
        print("LoRA Train: saving the current run before exit.", flush=True)
        close()
        signal.raise_signal(number)

    return handle


def _environment(api: bool) -> Environment:
    from modules import paths, shared

    from lib_lora_train.hosts.environment import Environment
    from lib_lora_train.hosts.webui.captioners import captioners
    from lib_lora_train.hosts.webui.detect import detect_webui
    from lib_lora_train.hosts.webui.queue_lock import under_the_lock
    from lib_lora_train.hosts.webui.txt2img import refresh_loras
    from lib_lora_train.safe_paths import policy_of, readable_folder

    webui = detect_webui()
    data = Path(paths.data_path) / "lora-train"
    policy = policy_of(shared.cmd_opts, data / "datasets", api=api)
    return Environment(
        title=webui.title,
        make_host=webui.make_host,
        lora_dir=Path(shared.cmd_opts.lora_dir),
        data_dir=data,
        shares_checkpoint=True,
        readable=lambda text: readable_folder(text, policy),
        adapters_changed=refresh_loras,
        txt2img=webui.txt2img,
        captioners={name: functools.partial(under_the_lock, load) for name, load in captioners().items()},
    )
