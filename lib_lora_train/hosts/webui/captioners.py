"""The WebUI's own interrogators: they put an image into words, as BLIP a sentence, as DeepDanbooru tags.

    with describers()["BLIP"]() as describe:
        text = describe(image)

To be used under the host's lock. Only functions are called that leave the WebUI's progress and interrupt state alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from PIL import Image

from lib_lora_train.errors import UserError

CaptionImage = Callable[[Image.Image], str]

ESCAPED = re.compile(r"\\([\\()])")
"""Brackets as a prompt writes them; a caption is read as it is."""


def captioners() -> dict[str, Callable[[], AbstractContextManager[CaptionImage]]]:
    """Name -> what loads the interrogator on entering and gives its memory back on leaving.

    Entering raises a UserError when it cannot be loaded; the first time, the WebUI downloads it.
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
        # Without ranks, which the user may have switched on for prompts: a caption has no weights.
        return ESCAPED.sub(r"\1", model.tag_multi(image, force_disable_ranks=True))

    try:
        with _plain_errors("DeepDanbooru"):
            model.start()
        yield caption_image
    finally:
        if model.model is not None:  # stop() takes for granted that loading succeeded
            model.stop()


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (IndexError, OSError):
        # The WebUI passes over a failed download; then there is no first file to take.
        raise UserError(
            f"{name} could not be downloaded, which it is on first use. Check the network connection, or put its file "
            "into the WebUI's models folder by hand."
        ) from None
    except Exception as error:  # a foreign model, its packages and the device fail in any way
        if "out of memory" in str(error).lower():
            raise UserError(
                f"{name} does not fit into the free memory. Unload the checkpoint or pause the training."
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{name} could not be loaded ({reason}). Choose the other one, or write the captions yourself."
        ) from None
