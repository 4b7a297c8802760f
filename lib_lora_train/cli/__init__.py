"""The command line: python -m lib_lora_train COMMAND."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, or 1 after an error message, or 130 after Ctrl-C."""
    from lib_lora_train.cli.arguments import parse
    from lib_lora_train.cli.commands import COMMANDS
    from lib_lora_train.errors import UserError

    try:
        values = parse(arguments)
        return COMMANDS[values.command](values)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Everything that was saved before is still there.", file=sys.stderr)
        return 130
