"""How soon a run begins on a full-size checkpoint that a real WebUI has loaded, and how much memory that takes.

    python -m tests.integration.check_full_size PATH-OF-A-WEBUI [--resolution 256]

Writes a random checkpoint of Stable Diffusion 1.5's size, loads it in the WebUI, starts runs of two steps, and prints
seconds and bytes. The loading time is that of selecting the checkpoint for the first time, including its hash; the WebUI's
own figure is printed as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.full_size import write_full_size
from lib_lora_train.embedded import DEMO_IMAGES
from tests.integration.checks import arguments_of, running_webui
from tests.integration.webui import WebUI


def main() -> None:
    chosen = arguments_of(__doc__, ("--resolution", {"type": int, "default": 256}))
    with running_webui(chosen.webui) as webui:
        measure(webui, chosen.webui, chosen.resolution)


def measure(webui: WebUI, installed: Path, resolution: int) -> None:
    """Prints the figures."""
    add_full_size(webui.data / "models" / "Stable-diffusion", installed)
    webui.call("POST", "/sdapi/v1/refresh-checkpoints")
    loading = seconds(lambda: webui.load_checkpoint("full-size.safetensors"))
    log = (webui.data / "log.txt").read_text(encoding="utf-8", errors="replace")
    own = next(line for line in reversed(log.splitlines()) if "Model loaded in" in line)
    print(f"the WebUI loads it in                      {loading:7.2f} s   ({own})", flush=True)
    run(webui, "warm-up", resolution)  # imports the packages and encodes the images to the cache on disk
    before = resident(webui)
    Path(f"/proc/{webui.process.pid}/clear_refs").write_text("5")  # resets the peak, which loading has set
    ready, first = run(webui, "measured", resolution)
    print(f"from Train to ready, images encoded before {ready:7.2f} s   wanted: 1.00 or less")
    print(
        f"from Train to the end of the first step    {first:7.2f} s   {loading / first:.1f} times faster than loading; wanted: 10"
    )
    print(f"parameters shared with the WebUI           {sharing(webui)}")
    peak = resident(webui, "VmHWM")
    print(
        f"resident memory before, and at its peak    {before / 2**20:.0f} MB, {peak / 2**20:.0f} MB in the measured run"
    )


def run(webui: WebUI, name: str, resolution: int) -> tuple[float, float]:
    """(seconds to ready, seconds to the end of the first step) of a run of two steps."""
    settings = {
        "name": name,
        "dataset_folder": str(DEMO_IMAGES),
        "resolution": resolution,
        "cache": "disk",
        "epochs": 1,
        "repeats": 1,
        "max_steps": 2,
        "sample_every_n_epochs": 0,
        "validate_every_n_epochs": 0,
        "rank": 8,
        "targets": "attention",
    }
    pressed = time.time()
    response = webui.start(**settings)
    assert response.status == 200, response
    while webui.job(name).get("state") not in ("finished", "failed"):
        time.sleep(1)  # each request takes processor time from the measured run
    assert webui.job(name)["state"] == "finished", webui.job(name)
    times = webui.call("GET", "/lora-train-checks/times").body[name]
    return times["ready"] - pressed, times["first step"] - pressed


def sharing(webui: WebUI) -> str:
    found = webui.call("GET", "/lora-train-checks/sharing").body
    return f"{found['shared']} of {found['parameters']}"


def resident(webui: WebUI, line: str = "VmRSS") -> int:
    """Bytes of the WebUI's process in memory, now (VmRSS) or at most (VmHWM)."""
    status = Path(f"/proc/{webui.process.pid}/status").read_text()
    return 1024 * int(next(row for row in status.splitlines() if row.startswith(line)).split()[1])


def add_full_size(models: Path, installed: Path) -> None:
    """Writes the random checkpoint, with the WebUI's config changed to read the text encoder's from the folder beside it."""
    path = write_full_size(models)
    config = (installed / "configs" / "v1-inference.yaml").read_text(encoding="utf-8")
    target = "target: ldm.modules.encoders.modules.FrozenCLIPEmbedder"
    version = f"{target}\n      params:\n        version: {path.with_suffix('').as_posix()}"
    path.with_suffix(".yaml").write_text(config.replace(target, version), encoding="utf-8")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
