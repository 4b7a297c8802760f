"""The tab in a real browser: from dropping images to the finished grid, on the embedded checkpoint.

Runs under the Gradio that is installed, and only where there is one, with playwright and a Chromium.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="Gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from lib_lora_train.embedded import DEMO_IMAGES  # noqa: E402
from lib_lora_train.queue import State, wait_until_over  # noqa: E402
from lib_lora_train.service import TrainingService  # noqa: E402
from lib_lora_train.ui.standalone import build_page, make_environment  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LONG = 120_000
"""Milliseconds; a machine that is busy needs some for the plan, and for the first step."""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
    pytest.mark.xdist_group("browser"),  # one browser and one server for all
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TrainingService]]:
    """(address, workshop) of the tab as a page of its own."""
    blocks, service = build_page(make_environment(tmp_path_factory.mktemp("tab").resolve()))
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, show_api=False)
    yield address, service
    service.queue.close()
    blocks.close(verbose=False)


@pytest.fixture
def page(browser, server) -> Iterator:
    """The open page; at its end nothing in it may have failed."""
    opened = browser.new_page(viewport={"width": 1300, "height": 1000})
    opened.set_default_timeout(LONG)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(server[0])
    opened.wait_for_selector("#lora_train_drop[data-listens]")  # the browser side is there
    yield opened
    opened.close()
    assert faults == []


def says(page, part: str, text: str) -> None:
    """Waits until a part of the tab has this text; a failure tells what it has instead."""
    playwright.expect(page.locator(f"#lora_train_{part}").first).to_contain_text(text, timeout=LONG)


def give(page, name: str, value: object) -> None:
    """Types a setting, wherever it stands."""
    page.locator(f"#lora_train_{name} input, #lora_train_{name} textarea").first.fill(str(value))


def open_group(page, title: str) -> None:
    page.get_by_role("button", name=title).or_(page.locator(".label-wrap", has_text=title)).first.click()


def drop_stars(page, name: str, **settings: object) -> None:
    """Names the run, drops six captioned stars, and makes it short."""
    give(page, "name", name)
    files = sorted(str(path) for path in Path(DEMO_IMAGES).iterdir())[:12]
    page.set_input_files("#lora_train_files", files)
    open_group(page, "More about length and saving")
    open_group(page, "More about previews and validation")
    short = {"epochs": 2, "resolution": 64, "max_steps": 2, "sample_steps": 3, "sample_prompts": "a red star"}
    for setting, value in {**short, **settings}.items():
        give(page, setting, value)
    says(page, "plan", "shown per epoch")


def test_from_dropping_images_to_the_grid(page, server):
    _, service = server
    drop_stars(page, "first")
    folder = service.environment.datasets_dir / "first"
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.txt"))) == 6
    says(page, "plan", "2 in 1 epoch")

    page.locator("#lora_train_album button").first.click()
    caption = page.get_by_label("Caption of 01_red_star_white.png")
    caption.wait_for()
    caption.fill("a <red> star")
    page.get_by_role("button", name="Save caption").click()
    says(page, "notice", "01_red_star_white.txt is saved")
    assert (folder / "01_red_star_white.txt").read_text().strip() == "a <red> star"

    page.click("#lora_train_train")
    says(page, "status", "is finished")
    job = service.queue.get("first")
    assert job.state == State.FINISHED
    assert job.folder.final_file.is_file()
    page.wait_for_selector("svg.lora_train_curve")
    page.wait_for_selector("#lora_train_previews img")
    assert "first" in page.inner_text("#lora_train_queue")

    page.locator("#lora_train_compare .label-wrap").first.click()
    give(page, "strengths", "0, 1")
    give(page, "compare_prompts", "a red star on a white background")
    page.click("#lora_train_draw")
    page.wait_for_selector("#lora_train_grid img")
    assert page.locator("#lora_train_tag textarea, #lora_train_tag input").input_value() == "<lora:first:0.8>"
    seen_whole = """image => {
        const box = image.closest('#lora_train_grid').getBoundingClientRect(), own = image.getBoundingClientRect();
        return Math.abs(own.width / own.height - image.naturalWidth / image.naturalHeight) < 0.02
            && own.left >= box.left && own.right <= box.right && own.top >= box.top && own.bottom <= box.bottom;
    }"""
    page.wait_for_function("document.querySelector('#lora_train_grid img').naturalWidth > 0")
    assert page.locator("#lora_train_grid img").first.evaluate(seen_whole)
    assert (service.environment.runs_dir / "first" / "first-grid.png").is_file()


def test_a_page_that_is_loaded_again_finds_the_run(page, server):
    _, service = server
    drop_stars(page, "second", max_steps=3000, epochs=2000)
    page.click("#lora_train_train")
    says(page, "status", "trains.")
    page.reload()
    says(page, "status", "second")
    pause = page.locator("#lora_train_pause")
    pause.wait_for()
    where = pause.bounding_box()
    playwright.expect(page.locator("#lora_train_plan").first).to_have_text(re.compile(r"\w"))
    assert pause.bounding_box() == where  # what comes later moves no button away
    pause.click()
    says(page, "status", "is paused")
    page.get_by_role("button", name="Resume").click()
    says(page, "status", "trains.")
    page.click("#lora_train_stop")
    says(page, "status", "was stopped")
    assert wait_until_over(service.queue.get("second")) == State.STOPPED
    page.wait_for_selector("text=Unfinished runs")

    page.click("#lora_train_discard")
    page.click("#lora_train_discard_yes")
    page.wait_for_selector("#lora_train_queue >> text=second", state="hidden")
    assert not (service.environment.runs_dir / "second").exists()


def test_a_problem_stands_beside_its_field_and_names_are_never_markup(page):
    give(page, "name", "<b>'x'</b>")
    give(page, "rank", 0)
    page.wait_for_selector("text=This is 0, below the least, 1. Raise it.")
    page.wait_for_selector("text=cannot be a file name and a tag")
    assert page.locator("#lora_train_tab .lora_train_bad b").count() == 0


def test_what_changes_while_a_plan_is_made_is_planned_too(page, server, monkeypatch):
    service, first, may_go_on = server[1], threading.Event(), threading.Event()
    problems = service.problems

    def slow(values):
        if not first.is_set():
            first.set()
            may_go_on.wait(60)
        return problems(values)

    give(page, "name", "a/b")
    page.wait_for_selector("text=cannot be a file name and a tag")
    monkeypatch.setattr(service, "problems", slow)
    give(page, "rank", 0)
    assert first.wait(60)
    give(page, "rank", 5000)
    page.wait_for_timeout(1500)  # longer than a pause in typing
    may_go_on.set()
    page.wait_for_selector("text=This is 5000, above the most")


def choose(page, name: str, text: str) -> None:
    """Picks from a list, as a person does."""
    page.locator(f"#lora_train_{name} input").first.click()
    page.locator("ul.options li", has_text=text).first.click()


def test_a_way_of_teaching_shows_its_own_settings_and_no_others(page, server):
    _, service = server
    shown = {"ileco": {"prompt_pairs", "replacement_strength"}, "captioned": {"dataset_folder", "drop", "trigger_word"}}
    open_group(page, "More about the loss")
    page.locator("#lora_train_weighting").wait_for()
    for method, text in (
        ("ileco", "replace one by another"),
        ("captioned", "Images with captions"),
        ("ileco", "replace one"),
    ):
        choose(page, "training_method", text)
        for name in shown[method]:
            page.locator(f"#lora_train_{name}").wait_for()
        for name in set().union(*shown.values()) - shown[method]:
            page.locator(f"#lora_train_{name}").wait_for(state="hidden")
    page.locator("#lora_train_weighting").wait_for(state="hidden")
    page.locator("#lora_train_timestep_min").wait_for()

    give(page, "name", "words")
    says(page, "plan", "once it has a name and changes")
    give(page, "prompt_pairs", "red -> blue\ncircle ->")
    open_group(page, "More about length and saving")
    open_group(page, "More about previews and validation")
    for setting, value in {"resolution": 64, "epochs": 1, "max_steps": 2, "sample_steps": 2}.items():
        give(page, setting, value)
    says(page, "plan", "2 by words: red -> blue, circle ->")
    page.click("#lora_train_train")
    says(page, "status", "words")  # the runs before it are finished, too
    says(page, "status", "is finished")
    assert service.queue.get("words").folder.final_file.is_file()
    page.wait_for_selector("#lora_train_previews img")
