"""Every training method from the tab of a real WebUI, in a browser. After each, weights and images must be unchanged.

    python -m tests.integration.check_methods PATH-OF-A-WEBUI [--only addift ...] [--screenshots FOLDER]

Each run has a few steps only: the benchmarks measure what it learns. Its tag must change the image.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from lib_lora_train.config import TRAINING_METHODS
from lib_lora_train.embedded import DEMO_IMAGES
from lib_lora_train.embedded.demo import write_levels
from tests.integration.checks import arguments_of, failures_of, report, running_webui
from tests.integration.webui import WebUI
from tests.ui.test_browser import CHROMIUM, LONG, choose, enter, expect_text

PROMPT = "a red circle on a white background"
SHORT = {
    "resolution": 64,
    "epochs": 1,
    "max_steps": 6,
    "sample_steps": 4,
    "sample_prompts": PROMPT,
    "learning_rate": "0.01",
}
DROPPED = "drop"
"""In place of a folder: images are dropped into the tab."""


@dataclass(frozen=True)
class MethodInput:
    """What a user enters for a training method."""

    method: str
    settings: dict[str, object] = field(default_factory=dict)
    images: str = ""
    """Folder with its images, or `DROPPED`; "" for none."""


INPUTS = (
    MethodInput("captioned", images=DROPPED),
    MethodInput("dreambooth", {"trigger_word": "sks", "class_word": "shape", "num_class_images": 2}, images=DROPPED),
    MethodInput("ileco", {"prompt_pairs": "red -> blue\ngreen -> green"}),
    MethodInput("leco", {"prompt_pairs": "circle ->\nsquare -> square", "denoising_steps": 4}),
    MethodInput(
        "text_slider",
        {"prompt_pairs": "a red shape -> a blue shape", "target_prompts": "a shape", "denoising_steps": 4},
    ),
    MethodInput("addift", {"repeats": 5}, images="pairs"),
    MethodInput("difference", {"first_pass_epochs": 1, "epochs": 2, "repeats": 5, "max_steps": 0}, images="pairs"),
    MethodInput("image_slider", {"repeats": 5}, images="levels"),
)


def main() -> None:
    chosen = arguments_of(
        __doc__,
        ("--only", {"nargs": "+", "choices": [inputs.method for inputs in INPUTS]}),
        ("--screenshots", {"type": Path}),
    )
    failures = []
    with tempfile.TemporaryDirectory() as folder, running_webui(chosen.webui) as webui, sync_playwright() as started:
        images = write_images(Path(folder) / "images")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = open_tab(browser.new_page(viewport={"width": 1300, "height": 1500}), webui)
        for inputs in INPUTS:
            if not chosen.only or inputs.method in chosen.only:
                failures += check(webui, page, inputs, images)
                take_screenshot(page, chosen.screenshots, inputs.method)
    report(failures)


def write_images(folder: Path) -> Path:
    """`pairs`, of shapes without and with an outline, and `levels`, of two sizes in sub-folders."""
    write_levels(folder / "levels", {"-1": {"radius": 0.15}, "1": {"radius": 0.28}}, 3)
    write_levels(folder / "both", {"before": {"outlined": False}, "after": {"outlined": True}}, 3)
    (folder / "pairs").mkdir()
    for level, suffix in (("before", ""), ("after", "_after")):
        for path in sorted((folder / "both" / level).iterdir()):
            if not (suffix and path.suffix == ".txt"):
                shutil.copy(path, folder / "pairs" / f"{path.stem}{suffix}{path.suffix}")
    return folder


def open_tab(page: Page, webui: WebUI) -> Page:
    page.set_default_timeout(LONG)
    page.goto(webui.url)
    page.locator("#tabs button", has_text="LoRA Train").first.click()
    page.wait_for_selector("#lora_train_drop[data-ready]", state="attached")
    return page


def check(webui: WebUI, page: Page, inputs: MethodInput, images: Path) -> list[str]:
    """What is wrong with one method; prints what was found."""
    name = f"method {inputs.method}"
    weights, image = webui.weights(), webui.generate(PROMPT)
    choose(page, "training_method", TRAINING_METHODS[inputs.method])
    page.wait_for_timeout(1500)  # settings that the method does not use disappear
    open_groups(page)
    enter(page, "name", name)
    if inputs.images == DROPPED:
        page.set_input_files("#lora_train_files", sorted(str(path) for path in DEMO_IMAGES.iterdir())[:12])
    elif inputs.images:
        enter(page, "dataset_folder", images / inputs.images)
    for setting, value in {**SHORT, **inputs.settings}.items():
        enter(page, setting, value)
    expect_text(page, "plan", "in 2 epochs" if inputs.method == "difference" else "6 in 1 epoch")
    page.click("#lora_train_train")
    expect_text(page, "status", f"Finished: {name}")
    failures = failures_of(
        inputs.method,
        {
            "the weights changed": webui.weights() == weights,
            "the image changed": webui.generate(PROMPT) == image,
            "its tag changes nothing": webui.generate(f"{PROMPT} <lora:{name}:1>") != image,
            "the image stays changed after its tag": webui.generate(PROMPT) == image,
        },
    )
    status = re.sub(r"\s+", " ", page.inner_text("#lora_train_status"))[:150]
    print(f"{inputs.method}: {status} Failures: {len(failures)}", flush=True)
    return failures


def take_screenshot(page: Page, folder: Path | None, name: str) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=str(folder / f"{name}.png"))


def open_groups(page: Page) -> None:
    """Opens all groups of further settings."""
    closed = page.locator(".lora_train_group .label-wrap:not(.open):visible")
    while closed.count():
        closed.first.click()


if __name__ == "__main__":
    main()
