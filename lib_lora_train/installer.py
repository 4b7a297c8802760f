"""Adds missing packages, and changes none that is installed.

pip runs with a constraints file that pins every installed package to its present version, so it can only add. When
nothing is missing, a start costs a few look-ups: pip is not run and torch is not imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from lib_lora_train.files import write_text
from lib_lora_train.requirements_check import (
    OPTIONAL_PACKAGE,
    in_words,
    installed_version,
    missing,
    needed,
    pinned,
)

PIP_OPTIONS = "--disable-pip-version-check --no-input --timeout 10 --retries 1"
"""Short enough that a start without network does not wait for minutes."""

VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[A-Za-z0-9]+([._-][A-Za-z0-9]+)*)?")
"""The versions that pip accepts in a constraint (PEP 440, as metadata writes them)."""

REASONS = (
    ("No space left", "the disk is full"),
    ("Permission denied", "no permission to write into this Python's folder"),
    ("ResolutionImpossible", "no version fits the packages that this WebUI has"),
    ("conflicting dependencies", "no version fits the packages that this WebUI has"),
    ("No module named pip", "this Python has no pip"),
    ("externally-managed", "this Python is managed by the system"),
    ("connection", "the package index cannot be reached"),
    ("timed out", "the package index cannot be reached"),
    ("name resolution", "the package index cannot be reached"),
    ("No matching distribution", "the package index does not have them for this Python"),
)
"""Part of pip's output -> what it means. The first that is found counts."""


def add_missing(launcher: Callable[[], ModuleType | None], memory: Path) -> None:
    """Run by install.py at each start of the WebUI. Never raises: a failure is printed in one sentence.

    Args:
        launcher: returns the WebUI's `launch` module, or None outside a WebUI. Called only if something is to be installed.
        memory: a file with the version of torch for which the optional package could not be added, so that this is not
            tried again at every start.
    """
    try:
        lacking = [package for package in needed() if installed_version(package) is None]
        wanted = [OPTIONAL_PACKAGE] if _should_try_optional(memory) else []
        if lacking or wanted:
            with _constraints() as file:
                _install_all(launcher(), lacking, wanted, file, memory)
    except (Exception, SystemExit) as error:  # the WebUI must start in any case
        print(f"LoRA Train: checking the packages that training needs failed ({_one_line(str(error))}).")


def _install_all(
    launch: ModuleType | None, lacking: list[str], wanted: list[str], constraints: Path, memory: Path
) -> None:
    if launch is not None and getattr(launch.args, "skip_install", False):
        if lacking:
            print(
                f"LoRA Train: {in_words(lacking)} not installed because of --skip-install. Training is not available."
            )
        return
    if lacking:
        reason = _install(launch, lacking, constraints)
        if reason:
            print(
                f"LoRA Train: {in_words(lacking)} could not be installed ({reason}). The WebUI starts without training and "
                "tries again next time."
            )
            return  # the optional package would fail for the same reason
    for package in wanted:
        reason = _install(launch, [package], constraints)
        if reason:
            write_text(memory, _torch())
            print(
                f"LoRA Train: {package} could not be installed ({reason}). Only the 8-bit optimizer needs it. "
                f"Delete {memory} to try again."
            )


def _install(launch: ModuleType | None, packages: list[str], constraints: Path) -> str:
    """Runs pip; returns why it failed, or ""."""
    requirements = " ".join(f'"{package}"' for package in pinned(packages))
    command = f'install {PIP_OPTIONS} --constraint "{constraints}" {requirements}'
    try:
        if launch is not None:
            launch.run_pip(command, in_words(packages))
        else:
            _run_pip(command)
    except RuntimeError as error:
        return _reason(str(error))
    importlib.invalidate_caches()
    return "pip reported success, but they are still missing" if set(packages) & set(missing()) else ""


def _run_pip(command: str) -> None:
    """Like the WebUI's `launch.run_pip`, for use outside a WebUI."""
    result = subprocess.run(
        f'"{sys.executable}" -m pip {command} --prefer-binary',
        shell=True,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        raise RuntimeError(result.stdout + result.stderr)


@contextlib.contextmanager
def _constraints() -> Iterator[Path]:
    """A constraints file that pins every installed package to its version."""
    with tempfile.TemporaryDirectory(prefix="lora-train-") as folder:
        path = Path(folder, "constraints.txt")
        path.write_text("".join(f"{line}\n" for line in _installed()), encoding="utf-8")
        yield path


def _installed() -> list[str]:
    """All installed packages as name==version. The first of a name counts, as for an import."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # The remains of a broken uninstallation have no name, and pip fails on a version that it cannot parse.
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if name and version and VERSION.fullmatch(version):
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _should_try_optional(memory: Path) -> bool:
    if installed_version(OPTIONAL_PACKAGE) is not None:
        return False
    if memory.is_file() and memory.read_text(encoding="utf-8") == _torch():
        return False
    return _torch_has_cuda() and _gpu_count() > 0


def _torch() -> str:
    return installed_version("torch") or ""


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, by its version.py: importing torch would take seconds."""
    try:
        file = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py")))
        return re.search(r"^cuda\b.*= *['\"]\d", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (importlib.metadata.PackageNotFoundError, OSError):
        return False


def _gpu_count() -> int:
    """The number of GPUs that the NVIDIA driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _reason(output: str) -> str:
    """The reason for a failure in a few words, from pip's output; pip's own last error when the reason is not known."""
    for text, meaning in REASONS:
        if text.lower() in output.lower():
            return meaning
    errors = re.findall(r"^(?:stdout: |stderr: )?(error: .+)$", output, re.MULTILINE | re.IGNORECASE)
    return _one_line(errors[-1] if errors else output.strip().rpartition("\n")[2])


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300] or "no message"
