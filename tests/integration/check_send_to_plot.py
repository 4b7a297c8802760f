"""Send to X/Y/Z plot in the tab of a real WebUI, in a browser: txt2img is filled in, whichever of its pages is open.

python -m tests.integration.check_send_to_plot PATH-OF-A-WEBUI [--screenshots FOLDER]
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from lib_lora_train.embedded import DEMO_IMAGES
from tests.integration.check_methods import open_tab, take_screenshot
from tests.integration.checks import arguments_of, report, running_webui
from tests.integration.webui import WebUI
from tests.ui.test_browser import CHROMIUM

NAME, PROMPT = "star", "a blue star on a white background"
RUN = {
    "name": NAME,
    "dataset_folder": str(DEMO_IMAGES),
    "resolution": 64,
    "repeats": 1,
    "epochs": 2,
    "rank": 4,
    "sample_every_n_epochs": 0,
    "validate_every_n_epochs": 0,
    "sample_prompts": [f"{PROMPT} --l 5 --d 7 --s 8"],
    "sample_sampler": "euler",
}
EXPECTED = {
    "#txt2img_prompt textarea": PROMPT,
    "#txt2img_width input[type=number]": "64",
    "#txt2img_height input[type=number]": "64",
    "#txt2img_cfg_scale input[type=number]": "5",
    "#txt2img_seed input": "7",
    "#txt2img_steps input[type=number]": "8",
    "#txt2img_sampling input": "Euler",
    "#script_txt2img_xyz_plot_x_type input": "[LoRA Train] Epoch",
    "#script_txt2img_xyz_plot_x_values textarea": "1, last",
    "#script_txt2img_xyz_plot_z_values textarea": NAME,
}
"""Element -> its value afterwards."""


def main() -> None:
    chosen = arguments_of(__doc__, ("--screenshots", {"type": Path}))
    with running_webui(chosen.webui) as webui, sync_playwright() as started:
        webui.start(**RUN)
        webui.wait(NAME, "finished", "failed")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        failures = []
        for inner in ("Generation", "Lora"):
            page = browser.new_page(viewport={"width": 1300, "height": 1500})
            failures += check(page, webui, inner)
            take_screenshot(page, chosen.screenshots, f"sent-from-{inner}")
            page.close()
    report(failures)


def check(page: Page, webui: WebUI, inner: str) -> list[str]:
    """What is wrong when the page `inner` of txt2img is open."""
    open_tab(page, webui)
    page.locator("#tabs > .tab-nav > button").first.click()
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text=inner).first.click()
    page.locator("#tabs button", has_text="LoRA Train").first.click()
    page.locator("#lora_train_comparison .label-wrap").first.click()
    page.click("#lora_train_send_to_plot")
    page.wait_for_timeout(12_000)
    found = {selector: page.locator(selector).first.input_value() for selector in EXPECTED}
    wrong = [
        f"{inner}: {selector} is {found[selector]!r}" for selector in EXPECTED if found[selector] != EXPECTED[selector]
    ]
    if not page.locator("#script_txt2img_xyz_plot_x_values textarea").is_visible():
        wrong.append(f"{inner}: the plot is not visible")
    print(f"{inner}: {len(EXPECTED) - len(wrong)} of {len(EXPECTED)} values", flush=True)
    return wrong


if __name__ == "__main__":
    main()
