"""Text as HTML. Everything that a user or a file named is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable


def escaped(text: object) -> str:
    """`text` for use in an element or in a quoted attribute."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, css_class: str) -> str:
    """One paragraph; "" for no text."""
    return f'<p class="lora_train_{css_class}">{escaped(text)}</p>' if text else ""


def message_html(text: str, *, error: bool = False) -> str:
    """A message, one paragraph per line; "" for no text."""
    lines = (line.strip() for line in text.splitlines())
    return "".join(paragraph(line, "error" if error else "message") for line in lines)


def hint_html(text: str) -> str:
    """A subdued remark; "" for no text."""
    return paragraph(text, "hint")


def section(label: str, css_class: str, body: str) -> str:
    """A framed block; screen readers announce `label`."""
    return f'<section class="lora_train_{css_class}" aria-label="{escaped(label)}">{body}</section>'


def facts_html(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels and their values in columns. Pairs without a value are left out."""
    items = "".join(f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in pairs if value)
    return f'<dl class="lora_train_facts">{items}</dl>'
