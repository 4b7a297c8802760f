"""The WebUI's own interrogators as captioners: BLIP writes a sentence, DeepDanbooru tags.

    with captioners()["BLIP"]() as caption_image:
        text = caption_image(image)

Use them under the queue's lock. The WebUI's progress and interrupt state are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from PIL import Image

from lib_lora_train.errors import UserError
from lib_lora_train.hosts.environment import CaptionImage

ESCAPED = re.compile(r"\\([\\()])")
"""A character escaped for a prompt. Captions need no escapes."""


def captioners() -> dict[str, Callable[[], AbstractContextManager[CaptionImage]]]:
    """Name -> a context manager that loads the interrogator on entering and frees its memory on leaving.

    Entering raises UserError when it cannot be loaded. The WebUI downloads it on first use.
    """
    return {"BLIP": _blip, "DeepDanbooru": _deepdanbooru}


@contextmanager
def _blip() -> Iterator[CaptionImage]:
    from modules import shared

    interrogator: Any = shared.interrogator
    try:
        with _plain_errors("BLIP"):
            interrogator.load()
        yield interrogator.generate_caption
    finally:
        interrogator.unload()


@contextmanager
def _deepdanbooru() -> Iterator[CaptionImage]:
    from modules import deepbooru

    model: Any = deepbooru.model

    def caption_image(image: Image.Image) -> str:
        # Without the weights that the user may have switched on for prompts.
        return ESCAPED.sub(r"\1", model.tag_multi(image, force_disable_ranks=True))

    try:
        with _plain_errors("DeepDanbooru"):
            model.start()
        yield caption_image
    finally:
        if model.model is not None:  # stop() fails if loading failed
            model.stop()


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (IndexError, OSError):
        # The WebUI ignores a failed download and then finds no file.
        raise UserError(
            f"{name} could not be downloaded. Check the network connection, or put its file into the WebUI's models folder."
        ) from None
    except Exception as error:  # a foreign model, its packages and the device may raise anything
        if "out of memory" in str(error).lower():
            raise UserError(
                f"{name} does not fit into the free memory. Unload the checkpoint or pause the training."
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{name} could not be loaded ({reason}). Choose another captioner, or write the captions yourself."
        ) from None
