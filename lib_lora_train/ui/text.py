"""Words as HTML: whatever a person or a file named is escaped here, and nowhere forgotten."""

from __future__ import annotations

import html
from collections.abc import Iterable

from lib_lora_train.config import Problem


def escaped(text: object) -> str:
    """`text` as it may stand in an element or in an attribute's quotation marks."""
    return html.escape(str(text), quote=True)


def notice(text: str, *, bad: bool = False) -> str:
    """A message, a paragraph for each of its lines; "" for none."""
    kind = "lora_train_bad" if bad else "lora_train_good"
    return "".join(f'<p class="{kind}">{escaped(line)}</p>' for line in text.splitlines() if line.strip())


def problem_note(problems: Iterable[Problem], *, hint: bool) -> str:
    """What stands under a field: its problems, as sentences. `hint` for what is merely not filled in yet."""
    kind = "lora_train_hint" if hint else "lora_train_bad"
    return "".join(f'<p class="{kind}">{escaped(sentence(problem.message))}</p>' for problem in problems)


def sentence(message: str) -> str:
    """A problem's message as a sentence of its own: most go on from the setting's name."""
    if message.split(" ")[0] in ("is", "has", "takes", "belongs"):
        return f"This {message}"
    return message[:1].upper() + message[1:]


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels and their values, laid out in one compact block."""
    items = "".join(f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in pairs if value)
    return f'<dl class="lora_train_facts">{items}</dl>'
