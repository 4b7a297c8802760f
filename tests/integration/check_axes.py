"""The X/Y/Z axes in a running WebUI: every cell equals the image that the typed tag gives.

    python -m tests.integration.check_axes http://127.0.0.1:7860 [--run NAME] [--no-reload]

The WebUI runs on this machine with --api, has a checkpoint loaded, and has at least one run with two epochs in its LoRA
folder. A second run is written there during the check. The interface is reloaded once, except with --no-reload.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.integration.checks import report
from tests.integration.plot_client import EPOCH, RUN, STRENGTH, Axis, GeneratedImage, PlotClient, RefusedError

SECOND_RUN = "луна (v1.5) x"
ENDPOINTS = ("txt2img", "img2img")


@dataclass
class Check:
    """Runs the cases and collects the failures."""

    client: PlotClient
    run: str
    last: int
    """Its last epoch."""
    failures: list[str] = field(default_factory=list)
    typed: dict[str, GeneratedImage] = field(default_factory=dict)
    """Images of typed tags, by prompt and settings."""

    def result(self, name: str, problems: list[str]) -> None:
        self.failures += [f"{name}: {problem}" for problem in problems]
        print(
            f"{'FAILED' if problems else 'ok    '} {name}", *problems, sep="\n         " if problems else "", flush=True
        )

    def cells(
        self,
        name: str,
        prompt: str,
        axes: Sequence[Axis],
        typed: Callable[..., tuple[str, dict[str, Any]]],
        **more: Any,
    ) -> None:
        """Compares each cell with the image of `typed`: the prompt and settings that a user would type for the cell's values."""
        keywords = {k: more.pop(k) for k in ("csv",) if k in more}
        written = more.pop("written", None) or [axis[1] for axis in axes]
        try:
            cells = self.client.grid(prompt, *axes, **keywords, **more)
        except RefusedError as refusal:
            self.result(name, [f"refused: {refusal}"])
            return
        wanted = [values[::-1] for values in itertools.product(*reversed(written))]
        problems = [] if len(cells) == len(wanted) else [f"{len(cells)} cells, not {len(wanted)}"]
        for values, cell in zip(wanted, cells, strict=False):
            text, settings = typed(*values)
            expected = self.typed_image(text, {**more, **settings})
            if cell.pixels != expected.pixels:
                problems.append(f"the cell {values} is not the image of {text!r}")
            if not cell.infotext.startswith(text.strip()):
                problems.append(f"the infotext of {values} begins {cell.infotext[:100]!r}")
        different = len({cell.pixels for cell in cells})
        self.result(
            f"{name}: {len(cells)} cells, {different} different",
            problems or ([] if different > 1 else ["all cells are equal"]),
        )

    def typed_image(self, prompt: str, settings: dict[str, Any]) -> GeneratedImage:
        key = json.dumps([prompt, settings])
        if key not in self.typed:
            self.typed[key] = self.client.generate(prompt, **settings)[0]
        return self.typed[key]

    def refused(self, name: str, word: str, prompt: str, *axes: Axis, **more: Any) -> None:
        """Expects an error that contains `word`, before anything is generated."""
        try:
            self.client.grid(prompt, *axes, **more)
        except RefusedError as refusal:
            response = json.loads(str(refusal))
            state = self.client.call("/sdapi/v1/progress")["state"]
            message = response.get("errors") or response.get("message", "")  # Forge's API uses the latter
            problems = [] if word in message else [f"the message is {message!r}"]
            problems += [] if state["job_no"] == state["sampling_step"] == 0 else [f"something was generated: {state}"]
            self.result(f"refused: {name}", problems)
            if not problems:
                print(f"         {message}")
        else:
            self.result(f"refused: {name}", ["no error"])

    def stem(self, run: str, epoch: str) -> str:
        """The file name of an epoch of a run, without its extension."""
        last = {self.run: str(self.last), SECOND_RUN: "2"}[run]
        return run if epoch in ("last", last) else f"{run}-{int(epoch):06d}"


def check_cells(check: Check) -> None:
    run, stem, plain = check.run, check.stem, "a red star on a white background"
    runs, both = (RUN, [run, SECOND_RUN]), (EPOCH, ["1", "last"])
    check.cells(
        "Run x Epoch, no tag in the prompt", plain, [runs, both], lambda r, e: (f"{plain} <lora:{stem(r, e)}:1>", {})
    )
    tagged = f"a <lora:{run}:0.3>red star, <lora:{run}-000001:1> white"
    epochs = (EPOCH, ["1", "last", str(check.last)])
    check.cells(
        "Epoch x Strength by text, with ranges",
        tagged,
        [epochs, (STRENGTH, ["0-1 [3]", "-0.5", "1.25"])],
        lambda e, s: (f"a <lora:{stem(run, e)}:{s}>red star,  white", {}),
        csv=True,
        written=[epochs[1], ["0", "0.5", "1", "-0.5", "1.25"]],
    )
    check.cells(
        "Strength x Seed",
        f"{plain} <lora:{run}>",
        [(STRENGTH, ["0.5", "1"]), ("Seed", ["1", "22"])],
        lambda s, seed: (f"{plain} <lora:{run}:{s}>", {"seed": int(seed)}),
    )
    words = ("Prompt S/R", ["star", "circle"])
    shaped, named = f"a red star <lora:{SECOND_RUN}:0.8> white", {"1": f"{SECOND_RUN}-000001", "last": SECOND_RUN}
    check.cells(
        "Epoch x Prompt S/R", shaped, [both, words], lambda e, w: (f"a red {w} <lora:{named[e]}:0.8> white", {})
    )
    check.cells(
        "Prompt S/R x Epoch", shaped, [words, both], lambda w, e: (f"a red {w} <lora:{named[e]}:0.8> white", {})
    )
    check.cells(
        "Prompt S/R of the tag itself x Strength",
        f"{plain} <lora:{run}-000001:1>",
        [("Prompt S/R", [f"{run}-000001", SECOND_RUN]), (STRENGTH, ["0.5", "1"])],
        lambda name, s: (f"{plain} <lora:{name}:{s}>", {}),
    )
    three = [(STRENGTH, ["0.5", "1"]), (EPOCH, ["last", "1"]), runs]
    for order in itertools.permutations(range(3)):
        check.cells(
            " x ".join(three[i][0].split()[-1] for i in order),
            f"a red star, <lora:{run}:0.2:0.4>, white",
            [three[i] for i in order],
            _three_typed(check, order),
            csv=order[0] == 0,
        )


def _three_typed(check: Check, order: tuple[int, ...]) -> Callable[..., tuple[str, dict[str, Any]]]:
    def typed(*values: str) -> tuple[str, dict[str, Any]]:
        strength, epoch, run = (values[order.index(i)] for i in range(3))
        return f"a red star, <lora:{check.stem(run, epoch)}:{strength}>, white", {}

    return typed


def check_other_endpoints(check: Check) -> None:
    run, stem = check.run, check.stem
    hires = {
        "enable_hr": True,
        "hr_additional_modules": ["Use same choices"],  # Forge's page always sends it, and its API fails without it
        "hr_scale": 2,
        "hr_second_pass_steps": 4,
        "denoising_strength": 0.7,
        "hr_upscaler": "Latent",
    }
    first, second = "a red star <lora:{0}:1>", "a blue star <lora:{0}:0.5>"
    check.cells(
        "Epoch with a second pass and its own prompt",
        first.format(run),
        [(EPOCH, ["1", "last"])],
        lambda e: (first.format(stem(run, e)), {"hr_prompt": second.format(stem(run, e))}),
        **hires,
        hr_prompt=second.format(run),
    )
    image = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 40)).save(image, "PNG")
    start = {
        "init_images": [base64.b64encode(image.getvalue()).decode()],
        "denoising_strength": 0.8,
        "endpoint": "img2img",
    }
    check.cells(
        "Epoch x Strength in img2img",
        "a red star",
        [(EPOCH, ["1", "last"]), (STRENGTH, ["0.5", "1"]), (RUN, [run])],
        lambda e, s, r: (f"a red star <lora:{stem(r, e)}:{s}>", {}),
        **start,
    )


def check_refusals(check: Check) -> None:
    run, tagged = check.run, f"a star <lora:{check.run}:1>"
    check.refused("an unknown run", "There is no run 'nobody'", tagged, (RUN, [run, "nobody"]))
    check.refused("an epoch that the run lacks", "has no epoch 99", tagged, (EPOCH, ["1", "99"]), csv=True)
    absent = str(check.last) if check.last > 2 else "3"
    check.refused(
        "an epoch that one of the runs lacks",
        f"has no epoch {absent}",
        tagged,
        (EPOCH, ["1", absent]),
        ("Seed", ["1", "2"]),
        (RUN, [run, SECOND_RUN]),
    )
    check.refused("an epoch that is none", "'first' is not an epoch", tagged, (EPOCH, ["first"]), csv=True)
    for bad in ("abc", "nan", "inf", "1e999"):
        check.refused(
            f"strength {bad}", f"'{bad}' is not a ", tagged, ("Seed", ["1"]), (STRENGTH, ["1", bad]), csv=True
        )
    check.refused("no run anywhere", "no tag of a run", "a star", (EPOCH, ["1"]), (STRENGTH, ["1"]))
    check.refused("an axis without values", "has no value", tagged, (STRENGTH, []))
    check.refused(
        "a tag that Prompt S/R turns into none",
        "no tag of a run",
        tagged,
        ("Prompt S/R", [f"<lora:{run}:1>", "!"]),
        (STRENGTH, ["1"]),
    )


def check_labels(check: Check, when: str) -> None:
    found = [
        label
        for endpoint in ENDPOINTS
        for label in check.client.axis_labels(endpoint)
        if label.startswith("[LoRA Train]")
    ]
    check.result(f"each axis once {when}", [] if found == [RUN, EPOCH, STRENGTH] * 2 else [str(found)])


def write_second_run(source: Path) -> Path:
    """Writes a run of two epochs beside `source`: its first epoch halved, and negated. The WebUI's list is not refreshed."""
    folder = source.parent / SECOND_RUN
    folder.mkdir()
    first = next(iter(sorted(source.glob("*-0*.safetensors"))))
    with safe_open(first, "np") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    for stem, epoch, sign in ((f"{SECOND_RUN}-000001", "1", 0.5), (SECOND_RUN, "2", -1)):
        changed = {k: (v * sign).astype(v.dtype) if k.endswith("lora_up.weight") else v for k, v in tensors.items()}
        save_file(changed, folder / f"{stem}.safetensors", {**metadata, "ss_output_name": stem, "ss_epoch": epoch})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--run", help="the run to use; else the first one with a numbered epoch")
    parser.add_argument("--no-reload", action="store_true", help="do not press Reload UI")
    chosen = parser.parse_args()
    client = PlotClient(chosen.url.rstrip("/"))
    folder = run_folder(client, chosen.run)
    if folder is None:
        report(["The WebUI's LoRA folder has no run with numbered epochs. Train one with at least two epochs first."])
    with safe_open(folder / f"{folder.name}.safetensors", "np") as file:
        check = Check(client, folder.name, int(file.metadata()["ss_epoch"]))
    second = write_second_run(folder)
    try:
        check_all(check, chosen.no_reload)
    finally:
        shutil.rmtree(second)
        with contextlib.suppress(OSError, RefusedError):
            client.call("/sdapi/v1/refresh-loras", {})
    report(check.failures)


def run_folder(client: PlotClient, name: str | None) -> Path | None:
    """The folder of the run `name`, or of any run with a numbered epoch."""
    files = [Path(lora["path"]) for lora in client.call("/sdapi/v1/loras")]
    numbered = [file.parent for file in files if re.fullmatch(re.escape(file.parent.name) + r"-\d{6}", file.stem)]
    return next((folder for folder in numbered if name in (None, folder.name) and folder.name != SECOND_RUN), None)


def check_all(check: Check, no_reload: bool) -> None:
    check_labels(check, "at the start")
    check_cells(check)
    check_other_endpoints(check)
    check_refusals(check)
    if not no_reload:
        check.client.reload_interface()
        check_labels(check, "after Reload UI")
        check_cells(check)


if __name__ == "__main__":
    main()
