"""What the extension does when the WebUI's process ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from lib_lora_train.webui import close_on_signal

signal.signal(signal.SIGINT, lambda number, frame: os._exit(7))  # as the WebUI does
close_on_signal(lambda: print("saved", flush=True))
signal.raise_signal({number})
print("still running")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "end"), [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_closes_the_queue_and_then_ends_the_process_as_before(number, end):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number))], capture_output=True, text=True, check=False
    )
    assert ended.returncode == end
    assert ended.stdout.splitlines()[-1] == "saved"
