"""The one exception whose text is meant for the user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do, in plain words.

    Every door (tab, command line, API) shows the message as it is, without a stack trace.
    """
