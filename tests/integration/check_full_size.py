"""How soon a run begins on a checkpoint of full size that a real WebUI holds, and what memory that takes.

    python tests/integration/check_full_size.py PATH-OF-A-WEBUI [--resolution 256]

Writes a random checkpoint of Stable Diffusion 1.5's size, lets the WebUI load it, starts runs of two steps, and prints
seconds and bytes, all measured in this one go. Loading is what choosing the checkpoint takes the first time, its hash
included; the WebUI's own figure for later times is printed as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.full_size import write_full_size  # noqa: E402
from lib_lora_train.embedded import DEMO_IMAGES  # noqa: E402
from tests.integration.webui import WebUI, start_real  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui", type=Path)
    parser.add_argument("--resolution", type=int, default=256)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        webui = start_real(chosen.webui.resolve(), Path(folder))
        try:
            measure(webui, chosen.webui.resolve(), chosen.resolution)
        finally:
            webui.close()


def measure(webui: WebUI, installed: Path, resolution: int) -> None:
    """Prints the figures."""
    add_full_size(webui.data / "models" / "Stable-diffusion", installed)
    webui.call("POST", "/sdapi/v1/refresh-checkpoints")
    loading = seconds(lambda: webui.load_checkpoint("full-size.safetensors"))
    log = (webui.data / "log.txt").read_text(encoding="utf-8", errors="replace")
    own = next(line for line in reversed(log.splitlines()) if "Model loaded in" in line)
    print(f"the WebUI loads it in                      {loading:7.2f} s   ({own})", flush=True)
    run(webui, "warm-up", resolution)  # the packages are imported, the images encoded to the cache on disk
    before = resident(webui)
    Path(f"/proc/{webui.process.pid}/clear_refs").write_text("5")  # the peak begins anew: loading had the highest
    ready, first = run(webui, "measured", resolution)
    print(f"from Train to ready, images encoded before {ready:7.2f} s   wanted: 1.00 or less")
    print(
        f"from Train to the end of the first step    {first:7.2f} s   {loading / first:.1f} times sooner than loading; wanted: 10"
    )
    print(f"parameters shared with the WebUI           {sharing(webui)}")
    peak = resident(webui, "VmHWM")
    print(
        f"resident memory before, and at its peak    {before / 2**20:.0f} MB, {peak / 2**20:.0f} MB in the measured run"
    )


def run(webui: WebUI, name: str, resolution: int) -> tuple[float, float]:
    """(seconds to ready, seconds to the end of the first step) of a run of two, which is there until its end."""
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
    answer = webui.start(**settings)
    assert answer.status == 200, answer
    while webui.job(name).get("state") not in ("finished", "failed"):
        time.sleep(1)  # asking takes the processor from what is measured
    assert webui.job(name)["state"] == "finished", webui.job(name)
    times = webui.call("GET", "/lora-train-checks/times").body[name]
    return times["ready"] - pressed, times["first step"] - pressed


def sharing(webui: WebUI) -> str:
    found = webui.call("GET", "/lora-train-checks/sharing").body
    return f"{found['shared']} of {found['parameters']}"


def resident(webui: WebUI, line: str = "VmRSS") -> int:
    """Bytes of the WebUI's process in memory, or at most so far (VmHWM)."""
    status = Path(f"/proc/{webui.process.pid}/status").read_text()
    return 1024 * int(next(row for row in status.splitlines() if row.startswith(line)).split()[1])


def add_full_size(models: Path, installed: Path) -> None:
    """The random checkpoint with the WebUI's own config, which looks for the text encoder's in a folder beside it."""
    path = write_full_size(models)
    config = (installed / "configs" / "v1-inference.yaml").read_text(encoding="utf-8")
    target = "target: ldm.modules.encoders.modules.FrozenCLIPEmbedder"
    version = f"{target}\n      params:\n        version: {path.with_suffix('').as_posix()}"
    path.with_suffix(".yaml").write_text(config.replace(target, version), encoding="utf-8")


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
