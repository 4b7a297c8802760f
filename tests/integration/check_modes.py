"""Every way of teaching, from the tab of a real WebUI, in a browser; after each the WebUI is bit for bit what it was.

    python tests/integration/check_modes.py PATH-OF-A-WEBUI [--only addift ...] [--screenshots FOLDER]

Each run takes a few steps only: what it learns is the benchmarks' to say. Its tag must change the picture.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from lib_lora_train.config import TRAINING_METHODS  # noqa: E402
from lib_lora_train.embedded import DEMO_IMAGES  # noqa: E402
from lib_lora_train.embedded.demo import write_levels  # noqa: E402
from tests.integration.webui import WebUI, start_real  # noqa: E402
from tests.ui.test_browser import CHROMIUM, LONG, choose, give, says  # noqa: E402

PROMPT = "a red circle on a white background"
SHORT = {
    "resolution": 64,
    "epochs": 1,
    "max_steps": 6,
    "sample_steps": 4,
    "sample_prompts": PROMPT,
    "learning_rate": "0.01",
}


@dataclass(frozen=True)
class Way:
    """What a person fills in for a mode. `images`: the folder, within the one that holds all; "" drops stars, None has none."""

    mode: str
    fields: dict[str, Any] = field(default_factory=dict)
    images: str | None = None


WAYS = [
    Way("captioned", images=""),
    Way("dreambooth", {"trigger_word": "sks", "class_word": "shape", "num_class_images": 2}, images=""),
    Way("ileco", {"prompt_pairs": "red -> blue\ngreen -> green"}),
    Way("leco", {"prompt_pairs": "circle ->\nsquare -> square", "denoising_steps": 4}),
    Way(
        "text_slider",
        {"prompt_pairs": "a red shape -> a blue shape", "target_prompts": "a shape", "denoising_steps": 4},
    ),
    Way("addift", {"repeats": 5}, images="pairs"),
    Way("difference", {"first_pass_epochs": 1, "epochs": 2, "repeats": 5, "max_steps": 0}, images="pairs"),
    Way("image_slider", {"repeats": 5}, images="levels"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui", type=Path)
    parser.add_argument("--only", nargs="+", choices=[way.mode for way in WAYS])
    parser.add_argument("--screenshots", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder) / "images")
        webui = start_real(chosen.webui.resolve(), Path(folder) / "data")
        try:
            with sync_playwright() as started:
                browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = open_tab(browser.new_page(viewport={"width": 1300, "height": 1500}), webui)
                ways = [way for way in WAYS if not chosen.only or way.mode in chosen.only]
                faults = [fault for way in ways for fault in check(webui, page, way, images, chosen.screenshots)]
        finally:
            webui.close()
    print("\n".join(faults) or "all is well")
    sys.exit(bool(faults))


def write_images(folder: Path) -> Path:
    """Pairs of outlines, and sizes in sub-folders."""
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
    page.wait_for_selector("#lora_train_drop[data-listens]", state="attached")
    return page


def check(webui: WebUI, page: Page, way: Way, images: Path, screenshots: Path | None) -> Sequence[str]:
    """What is wrong with one way; prints what was seen."""
    name = f"way {way.mode}"
    weights, picture = webui.weights(), webui.draw(PROMPT)
    choose(page, "training_method", TRAINING_METHODS[way.mode])
    page.wait_for_timeout(1500)  # what the mode does not use goes away
    open_groups(page)
    give(page, "name", name)
    if way.images == "":
        page.set_input_files("#lora_train_files", sorted(str(path) for path in DEMO_IMAGES.iterdir())[:12])
    elif way.images:
        give(page, "images", images / way.images)
    for setting, value in {**SHORT, **way.fields}.items():
        give(page, setting, value)
    says(page, "plan", "in 2 epochs" if way.mode == "difference" else "6 in 1 epoch")
    page.click("#lora_train_train")
    says(page, "status", f"{name} is finished")
    if screenshots:
        screenshots.mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=str(screenshots / f"{way.mode}.png"))
    found = {
        f"{way.mode}: the weights are not what they were": webui.weights() == weights,
        f"{way.mode}: the picture is not what it was": webui.draw(PROMPT) == picture,
        f"{way.mode}: its tag changes nothing": webui.draw(f"{PROMPT} <lora:{name}:1>") != picture,
        f"{way.mode}: the picture does not come back after its tag": webui.draw(PROMPT) == picture,
    }
    status = re.sub(r"\s+", " ", page.inner_text("#lora_train_status"))[:150]
    print(f"{way.mode}: {status} Faults: {sum(not fine for fine in found.values())}", flush=True)
    return [fault for fault, fine in found.items() if not fine]


def open_groups(page: Page) -> None:
    """Opens all that the mode has more to say about."""
    closed = page.locator("#lora_train_tab .label-wrap:not(.open):visible", has_text="More about")
    while closed.count():
        closed.first.click()


if __name__ == "__main__":
    main()
