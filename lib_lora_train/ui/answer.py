"""What a handler answers: for some parts of the page, by name, what changes about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib_lora_train.errors import UserError
from lib_lora_train.ui.background import log, unexpected
from lib_lora_train.ui.text import notice

Answer = dict[str, dict[str, Any]]
"""Part of the page -> the properties to set."""

Seen = dict[str, Any]
"""What one page shows at present, so that only changes are sent; kept on the server, one for each page."""


def said(text: str, *, bad: bool = False) -> Answer:
    """An answer in words."""
    return {"notice": {"value": notice(text, bad=bad), "visible": bool(text)}}


def in_words(handler: Callable[..., Answer], *arguments: Any) -> Answer:
    """The handler's answer, or the error that it raised as a message: the page never shows a stack trace."""
    try:
        return handler(*arguments)
    except UserError as error:
        return said(str(error), bad=True)
    except Exception as error:
        log.exception("The tab: %s failed", getattr(handler, "__name__", "an action"))
        return said(unexpected(error), bad=True)


def news(seen: Seen, answer: Answer) -> Answer:
    """Only what the page does not show already; notes it as shown."""
    fresh = {part: change for part, change in answer.items() if seen.get(f"shown {part}") != change}
    seen.update({f"shown {part}": change for part, change in fresh.items()})
    return fresh


def numbered(seen: Seen, heard: str | None) -> Answer:
    """Gives the answer that follows a number, under which the page asks for the next one.

    Where the page did not hear the last one, what that one showed is forgotten, and so told again.
    """
    if (heard or "") != seen.get("number", ""):
        for key in [key for key in seen if key.startswith("shown ")]:
            del seen[key]
    seen["number"] = str(int(seen.get("number", 0)) + 1)
    return {"heard": {"value": seen["number"]}}
