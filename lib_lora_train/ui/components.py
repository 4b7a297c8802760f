"""The page's Gradio components, by the names of their parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lib_lora_train.ui.parts import AnyPart


class Components:
    """Filled by the layout, used by the events."""

    def __init__(self) -> None:
        self._by_part: dict[AnyPart, Any] = {}

    def add(self, part: AnyPart, component: Any, *, saved: bool = True) -> None:
        """Names a component. With `saved`, a WebUI may save its value or label in ui-config.json."""
        self._by_part[part] = component
        if not saved:
            component.do_not_save_to_config = True

    def __getitem__(self, part: AnyPart) -> Any:
        return self._by_part[part]

    def __contains__(self, part: AnyPart) -> bool:
        return part in self._by_part

    def of(self, parts: Iterable[AnyPart]) -> list[Any]:
        """The components of `parts`, without duplicates and without parts that this page does not have."""
        return [self._by_part[part] for part in dict.fromkeys(parts) if part in self._by_part]
