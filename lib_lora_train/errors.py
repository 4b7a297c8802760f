"""The one exception whose text is meant for the user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something the user can fix: what is wrong and what to do, and the setting it concerns ("" for none)."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class UserError(Exception):
    """One or more problems the user can fix. Every entry point shows their messages without a stack trace.

    Attributes:
        problems: never empty.
    """

    def __init__(self, message: str = "", *, field: str = "", problems: Iterable[Problem] = ()) -> None:
        self.problems = [*problems] or [Problem(field, message)]
        super().__init__("\n".join(map(str, self.problems)))


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raises one UserError with all of `problems`; does nothing when there are none."""
    if found := [*problems]:
        raise UserError(problems=found)
