"""What the extension does for the WebUI's process as a whole."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from lib_lora_train.webui import before_a_signal_ends_it

signal.signal(signal.SIGINT, lambda number, frame: os._exit(7))  # as the WebUI does
before_a_signal_ends_it(lambda: print("saved", flush=True))
signal.raise_signal({number})
print("still there")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")
@pytest.mark.parametrize(("number", "end"), [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_run_is_saved_before_a_signal_ends_the_program_as_it_would_have(number, end):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number))], capture_output=True, text=True, check=False
    )
    assert ended.returncode == end
    assert ended.stdout.splitlines()[-1] == "saved"
