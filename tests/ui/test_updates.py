"""Errors of handlers as messages."""

from __future__ import annotations

from lib_lora_train.config import Problem
from lib_lora_train.errors import UserError
from lib_lora_train.ui.parts import Part
from lib_lora_train.ui.updates import Updates, message, updates_or_message


def failing(error: Exception) -> Updates:
    raise error


def test_a_handler_gets_its_arguments_and_its_updates_are_returned():
    assert updates_or_message(message, "saved") == message("saved")


def test_a_user_error_becomes_a_message_without_the_names_of_settings():
    problems = [Problem("rank", "Must be at least 1 (is 0)."), Problem("", "No checkpoint is loaded.")]
    updates = updates_or_message(failing, UserError(problems=problems))
    assert updates == message("Must be at least 1 (is 0).\nNo checkpoint is loaded.", error=True)


def test_an_unexpected_error_becomes_a_message_that_points_to_the_console(caplog):
    updates = updates_or_message(failing, ValueError("bad\nvalue"))
    text = updates[Part.NOTICE]["value"]
    assert "Failed with ValueError: bad value. See the console for details." in str(text)
    assert "Traceback" in caplog.text


def test_an_empty_message_hides_the_notice():
    assert message("") == {Part.NOTICE: {"value": "", "visible": False}}
