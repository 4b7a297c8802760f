"""What a handler answers: for some parts of the page, by name, what changes about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib_lora_train.errors import UserError
from lib_lora_train.ui.background import log, unexpected
from lib_lora_train.ui.text import notice

Updates = dict[str, dict[str, Any]]
"""Part of the page -> the properties to set."""

PageState = dict[str, Any]
"""What one page shows at present, so that only changes are sent; kept on the server, one for each page."""


def message_update(text: str, *, bad: bool = False) -> Updates:
    """An answer in words."""
    return {"notice": {"value": notice(text, bad=bad), "visible": bool(text)}}


def in_words(handler: Callable[..., Updates], *arguments: Any) -> Updates:
    """The handler's answer, or the error that it raised as a message: the page never shows a stack trace."""
    try:
        return handler(*arguments)
    except UserError as error:
        return message_update(str(error), bad=True)
    except Exception as error:
        log.exception("The tab: %s failed", getattr(handler, "__name__", "an action"))
        return message_update(unexpected(error), bad=True)


def changed_only(page_state: PageState, updates: Updates) -> Updates:
    """Only what the page does not show already; notes it as shown."""
    fresh = {part: change for part, change in updates.items() if page_state.get(f"shown {part}") != change}
    page_state.update({f"shown {part}": change for part, change in fresh.items()})
    return fresh


def next_sequence(page_state: PageState, ack: str | None) -> Updates:
    """Gives the answer that follows a number, under which the page asks for the next one.

    Where the page did not hear the last one, what that one showed is forgotten, and so told again.
    """
    if (ack or "") != page_state.get("number", ""):
        for key in [key for key in page_state if key.startswith("shown ")]:
            del page_state[key]
    page_state["number"] = str(int(page_state.get("number", 0)) + 1)
    return {"heard": {"value": page_state["number"]}}
