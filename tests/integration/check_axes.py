"""The X/Y/Z axes on a real, running WebUI: every cell equals the image made by typing the tag.

    python tests/integration/check_axes.py http://127.0.0.1:7860 [--run NAME] [--no-reload]

The WebUI runs on this machine with --api, has a checkpoint loaded and at least one run with two epochs in its LoRA
folder. A second run is written beside it for the length of the check. Reload UI is pressed unless told otherwise.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import itertools
import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

RUN, EPOCH, STRENGTH = "[LoRA Train] Run", "[LoRA Train] Epoch", "[LoRA Train] Strength"
SECOND_RUN = "луна (v1.5) x"
NO_AXIS = ("Nothing", [])
OPTIONS = (False, True, False, False, False, False, False, 0)
"""Of a plot: no legend, the single images, no sub-grids, seeds as they are and never varied, no margin."""
REFORGE_OPTIONS = (False, False, False, 0, *OPTIONS[1:])
"""The same, and: no labels on single images, a grid, with as many images as there are."""
Axis = tuple[str, Sequence[str]]


class RefusedError(Exception):
    """The WebUI answered with an error."""


@dataclass
class Picture:
    pixels: str
    infotext: str


@dataclass
class WebUI:
    """The few calls that the check needs."""

    url: str
    settings: dict[str, Any] = field(
        default_factory=lambda: {
            "width": 64,
            "height": 64,
            "steps": 8,
            "sampler_name": "DDIM",
            "cfg_scale": 5,
            "seed": 7,
        }
    )

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RefusedError(error.read().decode()) from None

    def draw(self, prompt: str, door: str = "txt2img", **more: Any) -> list[Picture]:
        """A picture for each of the answer's, without the grid."""
        answer = self.call(f"/sdapi/v1/{door}", {**self.settings, "prompt": prompt, **more})
        pictures = [_picture(image) for image in answer["images"]]
        return pictures[1:] if "script_name" in more else pictures

    def plot_arguments(self, door: str) -> list[dict[str, Any]]:
        infos = self.call("/sdapi/v1/script-info")
        return next(i for i in infos if i["name"] == "x/y/z plot" and i["is_img2img"] == (door == "img2img"))["args"]

    def axis_labels(self, door: str) -> list[str]:
        return self.plot_arguments(door)[0]["choices"]

    def grid(
        self,
        prompt: str,
        x: Axis,
        y: Axis = NO_AXIS,
        z: Axis = NO_AXIS,
        csv: bool = False,
        door: str = "txt2img",
        **more: Any,
    ) -> list[Picture]:
        """The cells, X fastest and Z slowest."""
        arguments = self.plot_arguments(door)
        labels, reforge = arguments[0]["choices"], len(arguments) == len(REFORGE_OPTIONS) + 10
        axes = [part for axis in (x, y, z) for part in (labels.index(axis[0]), *_slots(axis, csv))]
        plot = {
            "script_name": "x/y/z plot",
            "script_args": [*axes, *(REFORGE_OPTIONS if reforge else OPTIONS), csv],
        }
        return self.draw(prompt, door, **plot, **more)

    def reload_interface(self) -> None:
        config, before = self.call("/config"), self.call("/app_id")
        button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "settings_restart_gradio")
        index = next(
            i
            for i, d in enumerate(config["dependencies"])
            if [button, "click"] in d["targets"] or button in d["targets"]
        )
        self.call("/run/predict", {"fn_index": index, "data": [], "session_hash": "check"})
        for _ in range(120):  # the WebUI looks for the order every five seconds, then stops listening for a while
            time.sleep(0.5)
            with contextlib.suppress(OSError, HTTPException, RefusedError):
                if self.call("/app_id") != before and self.call("/sdapi/v1/script-info"):
                    return
        raise TimeoutError("The interface was not reloaded within a minute.")


def _slots(axis: Axis, csv: bool) -> tuple[str, list[str]]:
    """(text, dropdown). An axis without choices, such as Seed, reads its text in any case."""
    label, values = axis
    return ", ".join(values), [] if csv or label not in (RUN, EPOCH, STRENGTH) else list(values)


def _picture(image: str) -> Picture:
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        return Picture(hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(), picture.info.get("parameters", ""))


@dataclass
class Check:
    """Runs the cases and keeps count."""

    webui: WebUI
    run: str
    last: int
    failed: int = 0
    typed: dict[str, Picture] = field(default_factory=dict)

    def say(self, name: str, problems: list[str]) -> None:
        self.failed += bool(problems)
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
        """`typed` gives the prompt (and settings) that a person would type for a cell's values."""
        keywords = {k: more.pop(k) for k in ("csv",) if k in more}
        written = more.pop("written", None) or [axis[1] for axis in axes]
        try:
            cells = self.webui.grid(prompt, *axes, **keywords, **more)
        except RefusedError as refusal:
            self.say(name, [f"refused: {refusal}"])
            return
        wanted = [values[::-1] for values in itertools.product(*reversed(written))]
        problems = [] if len(cells) == len(wanted) else [f"{len(cells)} cells, not {len(wanted)}"]
        for values, cell in zip(wanted, cells, strict=False):
            text, settings = typed(*values)
            alone = self.alone(text, {**more, **settings})
            if cell.pixels != alone.pixels:
                problems.append(f"the cell {values} is not the image of {text!r}")
            if not cell.infotext.startswith(text.strip()):
                problems.append(f"the infotext of {values} begins {cell.infotext[:100]!r}")
        different = len({cell.pixels for cell in cells})
        self.say(
            f"{name}: {len(cells)} cells, {different} different",
            problems or ([] if different > 1 else ["all cells are equal"]),
        )

    def alone(self, prompt: str, settings: dict[str, Any]) -> Picture:
        key = json.dumps([prompt, settings])
        if key not in self.typed:
            self.typed[key] = self.webui.draw(prompt, **settings)[0]
        return self.typed[key]

    def refused(self, name: str, word: str, prompt: str, *axes: Axis, **more: Any) -> None:
        """Answered with an error that contains `word`, before anything was sampled."""
        try:
            self.webui.grid(prompt, *axes, **more)
        except RefusedError as refusal:
            answer = json.loads(str(refusal))
            state = self.webui.call("/sdapi/v1/progress")["state"]
            said = answer.get("errors") or answer.get("message", "")  # Forge's API says it in the latter
            problems = [] if word in said else [f"says {said!r}"]
            problems += [] if state["job_no"] == state["sampling_step"] == 0 else [f"something was drawn: {state}"]
            self.say(f"refused: {name}", problems)
            if not problems:
                print(f"         {said}")
        else:
            self.say(f"refused: {name}", ["was drawn"])

    def stem(self, run: str, epoch: str) -> str:
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


def check_other_doors(check: Check) -> None:
    run, stem = check.run, check.stem
    hires = {
        "enable_hr": True,
        "hr_additional_modules": ["Use same choices"],  # Forge's; its page always sends it, and its API fails without
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
    start = {"init_images": [base64.b64encode(image.getvalue()).decode()], "denoising_strength": 0.8, "door": "img2img"}
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
    check.refused("an epoch that is none", "'first' is no epoch", tagged, (EPOCH, ["first"]), csv=True)
    for bad in ("abc", "nan", "inf", "1e999"):
        check.refused(f"strength {bad}", f"'{bad}' is no ", tagged, ("Seed", ["1"]), (STRENGTH, ["1", bad]), csv=True)
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
        for door in ("txt2img", "img2img")
        for label in check.webui.axis_labels(door)
        if label.startswith("[LoRA Train]")
    ]
    check.say(f"each axis once {when}", [] if found == [RUN, EPOCH, STRENGTH] * 2 else [str(found)])


def write_second_run(source: Path) -> Path:
    """Two epochs beside the run at `source`: its first one and that with its sign turned. The WebUI is not told."""
    folder = source.parent / SECOND_RUN
    folder.mkdir()
    first = next(iter(sorted(source.glob("*-0*.safetensors"))))
    with safe_open(first, "np") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    for stem, epoch, sign in ((f"{SECOND_RUN}-000001", "1", 0.5), (SECOND_RUN, "2", -1)):
        turned = {k: (v * sign).astype(v.dtype) if k.endswith("lora_up.weight") else v for k, v in tensors.items()}
        save_file(turned, folder / f"{stem}.safetensors", {**metadata, "ss_output_name": stem, "ss_epoch": epoch})
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--run", help="which run to use; else the first with a numbered epoch")
    parser.add_argument("--no-reload", action="store_true", help="do not press Reload UI")
    arguments = parser.parse_args()
    webui = WebUI(arguments.url.rstrip("/"))
    files = [Path(lora["path"]) for lora in webui.call("/sdapi/v1/loras")]
    next_sequence = [f for f in files if re.fullmatch(re.escape(f.parent.name) + r"-\d{6}", f.stem)]
    folder = next(
        (f.parent for f in next_sequence if arguments.run in (None, f.parent.name) and f.parent.name != SECOND_RUN),
        None,
    )
    if folder is None:
        print("The WebUI's LoRA folder has no run with numbered epochs. Train one with at least two epochs first.")
        return 2
    with safe_open(folder / f"{folder.name}.safetensors", "np") as file:
        last = int(file.metadata()["ss_epoch"])
    second = write_second_run(folder)
    try:
        check = Check(webui, folder.name, last)
        check_labels(check, "at the start")
        check_cells(check)
        check_other_doors(check)
        check_refusals(check)
        if not arguments.no_reload:
            webui.reload_interface()
            check_labels(check, "after Reload UI")
            check_cells(check)
    finally:
        shutil.rmtree(second)
        with contextlib.suppress(OSError, RefusedError):
            webui.call("/sdapi/v1/refresh-loras", {})
    print(f"{check.failed} failed" if check.failed else "all as it should be")
    return int(bool(check.failed))


if __name__ == "__main__":
    sys.exit(main())
