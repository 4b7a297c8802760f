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
"""Milliseconds; a busy machine needs a while for a plan and for the first step."""

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
    """(address, service) of the tab as a page of its own."""
    blocks, service = build_page(make_environment(tmp_path_factory.mktemp("tab").resolve()))
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, show_api=False)
    yield address, service
    service.queue.close()
    blocks.close(verbose=False)


@pytest.fixture
def page(browser, server) -> Iterator:
    """The open page. Afterwards, none of its scripts may have failed."""
    opened = browser.new_page(viewport={"width": 1300, "height": 1000})
    opened.set_default_timeout(LONG)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server[0])
    opened.wait_for_selector("#lora_train_drop[data-ready]")  # the script has run
    yield opened
    opened.close()
    assert errors == []


def expect_text(page, part: str, text: str) -> None:
    """Waits until a part of the tab contains this text; a failure shows what it contains instead."""
    playwright.expect(page.locator(f"#lora_train_{part}").first).to_contain_text(text, timeout=LONG)


def enter(page, name: str, value: object) -> None:
    """Types a setting."""
    page.locator(f"#lora_train_{name} input, #lora_train_{name} textarea").first.fill(str(value))


def open_group(page, title: str) -> None:
    page.get_by_role("button", name=title).or_(page.locator(".label-wrap", has_text=title)).first.click()


def drop_stars(page, name: str, **settings: object) -> None:
    """Names the run, drops six captioned images of stars, and makes the run short."""
    enter(page, "name", name)
    files = sorted(str(path) for path in Path(DEMO_IMAGES).iterdir())[:12]
    page.set_input_files("#lora_train_files", files)
    open_group(page, "Length and saving")
    open_group(page, "Samples and validation")
    short = {"epochs": 2, "resolution": 64, "max_steps": 2, "sample_steps": 3, "sample_prompts": "a red star"}
    for setting, value in {**short, **settings}.items():
        enter(page, setting, value)
    expect_text(page, "plan", "samples per epoch")


def test_from_dropping_images_to_the_grid(page, server):
    _, service = server
    drop_stars(page, "first")
    folder = service.environment.datasets_dir / "first"
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.txt"))) == 6
    expect_text(page, "plan", "2 in 1 epoch")

    page.locator("#lora_train_gallery button").first.click()
    caption = page.get_by_label("Caption of 01_red_star_white.png")
    caption.wait_for()
    caption.fill("a <red> star")
    page.get_by_role("button", name="Save caption").click()
    expect_text(page, "notice", "01_red_star_white.txt was saved")
    assert (folder / "01_red_star_white.txt").read_text().strip() == "a <red> star"

    page.click("#lora_train_train")
    expect_text(page, "status", "Finished: first")
    job = service.queue.get("first")
    assert job.state == State.FINISHED
    assert job.folder.final_file.is_file()
    page.wait_for_selector("svg.lora_train_curve")
    page.wait_for_selector("#lora_train_samples img")
    assert "first" in page.inner_text("#lora_train_queue")

    page.locator("#lora_train_comparison .label-wrap").first.click()
    enter(page, "strengths", "0, 1")
    enter(page, "comparison_prompts", "a red star on a white background")
    page.click("#lora_train_generate_grid")
    page.wait_for_selector("#lora_train_grid img")
    assert page.locator("#lora_train_tag textarea, #lora_train_tag input").input_value() == "<lora:first:0.8>"
    is_whole = """image => {
        const box = image.closest('#lora_train_grid').getBoundingClientRect(), own = image.getBoundingClientRect();
        return Math.abs(own.width / own.height - image.naturalWidth / image.naturalHeight) < 0.02
            && own.left >= box.left && own.right <= box.right && own.top >= box.top && own.bottom <= box.bottom;
    }"""
    page.wait_for_function("document.querySelector('#lora_train_grid img').naturalWidth > 0")
    assert page.locator("#lora_train_grid img").first.evaluate(is_whole)
    assert (service.environment.runs_dir / "first" / "first-grid.png").is_file()


def test_a_page_that_is_loaded_again_finds_the_run(page, server):
    _, service = server
    drop_stars(page, "second", max_steps=3000, epochs=2000)
    page.click("#lora_train_train")
    expect_text(page, "status", "Training second")
    page.reload()
    expect_text(page, "status", "Training second")
    pause = page.locator("#lora_train_pause")
    pause.wait_for()
    position = pause.bounding_box()
    playwright.expect(page.locator("#lora_train_plan").first).to_have_text(re.compile(r"\w"))
    assert pause.bounding_box() == position  # what appears later does not move the button
    pause.click()
    expect_text(page, "status", "Paused: second")
    page.get_by_role("button", name="Resume").first.click()
    expect_text(page, "status", "Training second")
    page.click("#lora_train_stop")
    expect_text(page, "status", "Stopped: second")
    assert wait_until_over(service.queue.get("second")) == State.STOPPED
    page.wait_for_selector("text=Unfinished runs")

    page.click("#lora_train_discard")
    page.click("#lora_train_confirm_discard")
    page.wait_for_selector("#lora_train_queue >> text=second", state="hidden")
    assert not (service.environment.runs_dir / "second").exists()


def test_a_problem_is_shown_below_its_control_and_names_are_never_markup(page):
    enter(page, "name", "<b>'x'</b>")
    enter(page, "rank", 0)
    page.wait_for_selector("text=Must be at least 1 (is 0).")
    page.wait_for_selector("text=Use letters, digits, spaces")
    assert page.locator("#lora_train_tab .lora_train_error b").count() == 0


def test_a_change_while_a_plan_is_being_made_updates_the_plan_again(page, server, monkeypatch):
    service, first, may_continue = server[1], threading.Event(), threading.Event()
    plan = service.plan

    def slow(values, **options):
        if not first.is_set():
            first.set()
            may_continue.wait(60)
        return plan(values, **options)

    enter(page, "name", "a/b")
    page.wait_for_selector("text=Use letters, digits, spaces")
    monkeypatch.setattr(service, "plan", slow)
    enter(page, "rank", 0)
    assert first.wait(60)
    enter(page, "rank", 5000)
    page.wait_for_timeout(1500)  # longer than a pause in typing
    may_continue.set()
    page.wait_for_selector("text=Must be at most 512 (is 5000).")


def test_a_plan_is_measured_even_if_an_earlier_one_is_still_being_measured(page, server, monkeypatch):
    service, plan = server[1], server[1].plan
    measuring, planned, may_continue = threading.Event(), threading.Event(), threading.Event()

    def slow(values, *, timed=False):
        if timed and not measuring.is_set():
            measuring.set()
            may_continue.wait(60)
        try:
            return plan(values, timed=timed)
        finally:
            if values["batch_size"] == 2:
                planned.set()

    monkeypatch.setattr(service, "plan", slow)
    drop_stars(page, "measured", batch_size=3)
    assert measuring.wait(60)
    enter(page, "batch_size", 2)
    assert planned.wait(60)
    page.wait_for_timeout(2000)  # the reply is on the page, and the measurement is requested
    expect_text(page, "plan", "measuring...")
    may_continue.set()
    playwright.expect(page.locator("#lora_train_plan").first).not_to_contain_text("measuring...", timeout=20_000)
    expect_text(page, "plan", "Time")


def choose(page, name: str, text: str) -> None:
    """Selects from a list, as a user does."""
    page.locator(f"#lora_train_{name} input").first.click()
    page.locator("ul.options li", has_text=text).first.click()


def test_a_training_method_shows_its_own_settings_and_help(page, server):
    _, service = server
    shown = {"ileco": {"prompt_pairs", "replacement_strength"}, "captioned": {"dataset_folder", "drop", "trigger_word"}}
    help_text = {"ileco": "Empty: the first prompts.", "captioned": "Empty: the captions of the first images."}
    open_group(page, "Loss and noise")
    page.locator("#lora_train_loss_weighting").wait_for()
    for method, text in (
        ("ileco", "replace one with another"),
        ("captioned", "Images with captions"),
        ("ileco", "replace one"),
    ):
        choose(page, "training_method", text)
        for name in shown[method]:
            page.locator(f"#lora_train_{name}").wait_for()
        for name in set().union(*shown.values()) - shown[method]:
            page.locator(f"#lora_train_{name}").wait_for(state="hidden")
        playwright.expect(page.locator("#lora_train_sample_prompts")).to_contain_text(help_text[method])
    page.locator("#lora_train_loss_weighting").wait_for(state="hidden")
    page.locator("#lora_train_min_timestep").wait_for()

    enter(page, "name", "blue")
    expect_text(page, "plan", "Enter prompt pairs to see the training plan.")
    enter(page, "prompt_pairs", "red -> blue\ncircle ->")
    open_group(page, "Length and saving")
    open_group(page, "Samples and validation")
    for setting, value in {"resolution": 64, "epochs": 1, "max_steps": 2, "sample_steps": 2}.items():
        enter(page, setting, value)
    expect_text(page, "plan", "red -> blue, circle ->")
    page.click("#lora_train_train")
    expect_text(page, "status", "Finished: blue")
    assert service.queue.get("blue").folder.final_file.is_file()
    page.wait_for_selector("#lora_train_samples img")
