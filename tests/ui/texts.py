"""The texts of the tab, read from the page itself: from its components and from the HTML of its views."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import gradio as gr

from lib_lora_train.config import TRAINING_METHODS
from lib_lora_train.hosts.environment import Environment
from lib_lora_train.service import TrainingService
from lib_lora_train.training.events import EpochDone, Progress, Started, Validated
from lib_lora_train.ui.controls import control_of, offered_settings
from lib_lora_train.ui.curve import curve_of, curve_svg
from lib_lora_train.ui.layout.gallery import DROP_ZONE
from lib_lora_train.ui.plan_view import plan_html
from lib_lora_train.ui.run_view import IDLE, STATE_WORDS, queue_html, status_html
from lib_lora_train.ui.tab import build_tab
from tests.ui.views import a_plan, job_of

HIDDEN = "lora_train_hidden"
EVENTS = [Started(0, 30, 3, 5, 1), Validated(0, 0.2), Progress(10, 1, 0.3, 2.0), Validated(1, 0.1), EpochDone(1, 10)]


def environment(folder: Path, *, in_webui: bool) -> Environment:
    """An environment in which the tab shows all that it can."""
    captioners = {name: lambda: nullcontext(lambda image: "") for name in ("BLIP", "DeepDanbooru")}
    return Environment(
        title="test",
        make_host=lambda config: None,  # type: ignore[arg-type, return-value] - no checkpoint is used
        lora_dir=folder / "Lora",
        data_dir=folder / "data",
        shares_checkpoint=in_webui,
        readable=lambda text: folder / text,
        captioners=captioners if in_webui else {},
    )


def labels(folder: Path) -> set[str]:
    """Labels, titles, buttons and choices: what every localization translates."""
    found = {"Resume", "measuring...", "known after the first steps", *STATE_WORDS, *TRAINING_METHODS.values()}
    for in_webui in (True, False):
        service = TrainingService(environment(folder, in_webui=in_webui))
        for component in _visible_components(build_tab(service)):
            found |= set(_component_labels(component))
    return found | _view_labels()


def help_texts(folder: Path) -> set[str]:
    """The texts below labels, for every training method, and the hints: what a localization may translate."""
    found = {IDLE, *_text_nodes(DROP_ZONE)}
    for in_webui in (True, False):
        service = TrainingService(environment(folder, in_webui=in_webui))
        found |= {getattr(component, "info", None) for component in _visible_components(build_tab(service))}
    found |= {
        control_of(field, method).info
        for field in offered_settings(False)
        for method in TRAINING_METHODS
        if field.info.used_by(method)
    }
    return {text for text in found if text}


def _visible_components(blocks: gr.Blocks) -> Iterator[gr.blocks.Block]:
    def walk(block: gr.blocks.Block) -> Iterator[gr.blocks.Block]:
        if HIDDEN in (getattr(block, "elem_classes", None) or []):
            return
        yield block
        for child in getattr(block, "children", []):
            yield from walk(child)

    yield from walk(blocks)


def _component_labels(component: gr.blocks.Block) -> Iterator[str]:
    label = getattr(component, "label", None)
    if label and getattr(component, "show_label", True):
        yield label
    if isinstance(component, gr.Button):
        yield str(component.value)
    if isinstance(component, gr.HTML) and component.value == '<p class="lora_train_hint">More settings</p>':
        yield "More settings"
    if isinstance(component, gr.Dropdown):
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in component.choices]
        yield from (choice for choice in choices if choice[:1].isupper() or choice.startswith("("))


def _view_labels() -> set[str]:
    """The fixed texts in the HTML of plan, run, queue and curve."""
    job = job_of(*EVENTS)
    about = plan_html(a_plan(about="prompts"))
    pages = [plan_html(a_plan()), about, status_html(job, "1 GB"), queue_html([job]), curve_svg(curve_of(EVENTS))]
    found: set[str] = set()
    for page in pages:
        for element in ElementTree.fromstring(f"<div>{page}</div>").iter():
            is_label = element.tag in ("dt", "th", "caption") or (element.tag == "text" and _is_fixed(element.text))
            found |= {str(element.text)} if is_label else set()
    return found


def _is_fixed(text: str | None) -> bool:
    return bool(text) and not any(character.isdigit() for character in text or "")


def _text_nodes(html: str) -> set[str]:
    text = html.replace("multiple>", 'multiple="multiple"/>')
    return {node.strip() for node in ElementTree.fromstring(text).itertext() if node.strip()}
