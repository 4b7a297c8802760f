"""User text in HTML is always escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from lib_lora_train.config import Problem
from lib_lora_train.training.events import Started, Warned
from lib_lora_train.ui.html import escaped, facts_html, hint_html, message_html
from lib_lora_train.ui.plan_view import no_plan_html, plan_html
from lib_lora_train.ui.run_view import poll_status_html, queue_html, status_html
from tests.ui.views import a_plan, job_of, text_of

UNKIND = """<img src=x onerror="alert('1')">"""


def test_escaped_text_is_the_same_text_in_an_element_and_in_an_attribute():
    element = ElementTree.fromstring(f'<p title="{escaped(UNKIND)}">{escaped(UNKIND)}</p>')
    assert element.text == element.attrib["title"] == UNKIND
    assert list(element) == []


@pytest.mark.parametrize(
    "html",
    [
        message_html(UNKIND, error=True),
        hint_html(UNKIND),
        facts_html([("Label", UNKIND)]),
        plan_html(a_plan(checkpoint=UNKIND, warnings=[UNKIND])),
        no_plan_html([Problem("", UNKIND), Problem("seed", UNKIND)], {}, set()),
        status_html(job_of(Started(0, 8, 4, 5, 1), Warned(UNKIND), name=UNKIND)),
        queue_html([job_of(name=UNKIND)]),
        poll_status_html({"announcement": UNKIND}),
    ],
)
def test_names_and_messages_are_never_markup(html):
    root = ElementTree.fromstring(f"<div>{html}</div>")
    elements = list(root.iter())
    assert "img" not in {element.tag for element in elements}
    assert UNKIND in "".join(root.itertext()) + "".join(value for item in elements for value in item.attrib.values())


def test_each_line_of_a_message_is_a_paragraph():
    assert message_html("one\n\ntwo") == '<p class="lora_train_message">one</p><p class="lora_train_message">two</p>'
    assert message_html("") == ""


def test_facts_without_a_value_are_left_out():
    assert text_of(facts_html([("Loss", "0.1"), ("Speed", "")])) == "Loss 0.1"
