"""Background tasks: progress, result, and errors as text."""

from __future__ import annotations

import threading
import time

from lib_lora_train.errors import UserError
from lib_lora_train.ui.background import BackgroundTask, start_in_background


def finish(task: BackgroundTask) -> None:
    deadline = time.monotonic() + 60
    while not task.is_done:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_text_is_the_progress_until_the_end():
    may_continue, reported = threading.Event(), threading.Event()

    def work(task: BackgroundTask[int]) -> int:
        task.progress(3, 12)
        reported.set()
        may_continue.wait(60)
        return 7

    task = start_in_background("Captioning with BLIP", work)
    assert reported.wait(60)
    assert task.text == "Captioning with BLIP: 3 of 12"
    may_continue.set()
    finish(task)
    assert (task.text, task.result, task.error) == ("", 7, "")


def test_before_the_total_is_known_the_text_is_the_title():
    assert BackgroundTask("Captioning with BLIP").text == "Captioning with BLIP..."


def test_a_user_error_is_the_text_afterwards():
    def work(task: BackgroundTask[int]) -> int:
        raise UserError("The folder does not exist.", field="dataset_folder")

    task = start_in_background("Captioning", work)
    finish(task)
    assert (task.text, task.result) == ("The folder does not exist.", None)


def test_an_unexpected_error_names_its_type():
    def work(task: BackgroundTask[int]) -> int:
        raise OSError("disk full")

    task = start_in_background("Captioning", work)
    finish(task)
    assert task.text == "Failed with OSError: disk full. See the console for details."
