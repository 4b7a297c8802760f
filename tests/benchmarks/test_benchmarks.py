"""Every benchmark starts and ends, on as little as it accepts. Its figures are not looked at."""

from __future__ import annotations

import ast
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import full_size
from tools.checkpoints import evaluate

pytestmark = pytest.mark.xdist_group("benchmarks")  # they use a whole core each

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "bench_axes": "--adapters 60 --times 1",
    "bench_dreambooth": "--small --quick --seeds 0",
    "bench_install": "--times 1",
    "bench_learning": "--quick --seeds 0 --checkpoint tests/assets/shapes-v-v1.safetensors",
    "bench_loading": "--images 2 --batch-size 1 --batches 1 --step 0",
    "bench_peers": "",
    "bench_planning": "--images 20 --repeats 1",
    "bench_tasks": "--quick --only size --seeds 0",
    "bench_training": "--rounds 1 --round-seconds 0",
    "full_size": "FOLDER --half",
    "memory_table": "--only sd1 --ranks 4 --settings plain",
    "peers.leco": "",
    "peers.traintrain": "",
}
"""Program -> its arguments."""
MISSING = {
    "bench_peers": "Name at least one peer",
    "bench_peers --leco nowhere": "nowhere/train_lora.py does not exist.",
    "bench_peers --dreambooth nowhere.py": "nowhere.py does not exist.",
    "bench_training --peer nowhere.py": "nowhere.py does not exist.",
    "peers.leco": "bench_peers starts this program",
    "peers.traintrain": "bench_peers starts this program",
}
"""Command without what it needs -> how the sentence begins with which it ends."""


def programs() -> list[str]:
    """The modules in benchmarks/ that are programs, without the package's name."""
    files = [path for path in (ROOT / "benchmarks").rglob("*.py") if "stand_in" not in path.parts]
    with_main = [path for path in files if any(is_main(node) for node in ast.parse(path.read_text()).body)]
    return sorted(".".join(path.relative_to(ROOT / "benchmarks").with_suffix("").parts) for path in with_main)


def is_main(node: ast.stmt) -> bool:
    """Whether a statement defines `main`, or runs only when the module is started."""
    return (isinstance(node, ast.FunctionDef) and node.name == "main") or ast.unparse(node).startswith("if __name__")


@pytest.fixture
def start(monkeypatch):
    """start(program, *arguments) in this process, which has imported most of what it needs."""
    monkeypatch.chdir(ROOT)

    def call(program: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        importlib.import_module(f"benchmarks.{program}").main()

    return call


def test_every_program_has_its_smallest_arguments():
    assert sorted(SMALLEST) == programs()


@pytest.mark.parametrize("program", sorted(SMALLEST.keys() - MISSING.keys()))
def test_it_runs(program, start, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "COLORS", ["red"])  # a sixth of the images
    if program == "full_size":
        narrow(monkeypatch)
    start(program, *(str(tmp_path) if part == "FOLDER" else part for part in SMALLEST[program].split()))
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", MISSING)
def test_without_what_it_needs_it_ends_with_one_sentence(command, start):
    with pytest.raises(SystemExit) as ended:
        start(*command.split())
    assert str(ended.value).startswith(MISSING[command])
    assert "\n" not in str(ended.value)


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the full-size checkpoint as small as its layout allows."""
    channels = (32, 32, 32, 32)
    monkeypatch.setitem(full_size.UNET_CONFIG, "block_out_channels", channels)
    monkeypatch.setattr(full_size, "UNET_SHAPE", replace(full_size.UNET_SHAPE, channels=channels))
    monkeypatch.setitem(full_size.VAE_CONFIG, "block_out_channels", channels)
    monkeypatch.setitem(full_size.TEXT_CONFIG, "vocab_size", 600)
