"""What an event changes on the page."""

from __future__ import annotations

from collections.abc import Callable

from lib_lora_train.errors import UserError
from lib_lora_train.ui.background import log, unexpected_error
from lib_lora_train.ui.html import message_html
from lib_lora_train.ui.parts import AnyPart, Part

Properties = dict[str, object]
"""The arguments of gr.update()."""

Updates = dict[AnyPart, Properties]
"""Part of the page -> its new properties."""


def message(text: str, *, error: bool = False) -> Updates:
    """A message below the run's buttons; none if `text` is empty."""
    return {Part.NOTICE: {"value": message_html(text, error=error), "visible": bool(text)}}


def updates_or_message(handler: Callable[..., Updates], *arguments: object) -> Updates:
    """The handler's updates, or its error as a message. The page never shows a stack trace."""
    try:
        return handler(*arguments)
    except UserError as error:
        return message("\n".join(problem.message for problem in error.problems), error=True)
    except Exception as error:
        log.exception("The tab: %s failed", getattr(handler, "__name__", "an event"))
        return message(unexpected_error(error), error=True)
