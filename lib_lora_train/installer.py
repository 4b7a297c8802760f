"""Adds the packages that are missing, and changes none that is there.

pip runs under a constraints file that pins everything installed to its present version, so it can add and nothing
else. Where nothing is missing, a start costs a few look-ups: neither pip nor torch is touched.
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

from lib_lora_train.requirements_check import (
    OPTIONAL_PACKAGE,
    in_words,
    installed_version,
    missing,
    needed,
    pinned,
)

PIP_OPTIONS = "--disable-pip-version-check --no-input --timeout 10 --retries 1"
"""A start without network must not wait for minutes."""

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
"""What pip writes -> what it means. The first that fits counts."""


def add_missing(launcher: Callable[[], ModuleType | None], memory: Path) -> None:
    """What install.py does at each start of the WebUI. Never raises: a failure becomes one printed sentence.

    Args:
        launcher: gives the WebUI's `launch`, or None outside of one; called only when there is something to install.
        memory: a file that remembers for which torch the optional package could not be added, so that it is not
            tried again at every start.
    """
    try:
        lacking = [package for package in needed() if installed_version(package) is None]
        wanted = [OPTIONAL_PACKAGE] if _optional_is_worth_trying(memory) else []
        if lacking or wanted:
            with _constraints() as file:
                _install_all(launcher(), lacking, wanted, file, memory)
    except (Exception, SystemExit) as error:  # the WebUI must start whatever happens here
        print(f"LoRA Train: the packages that training needs could not be looked after ({_one_line(str(error))}).")


def _install_all(
    launch: ModuleType | None, lacking: list[str], wanted: list[str], constraints: Path, memory: Path
) -> None:
    if launch is not None and getattr(launch.args, "skip_install", False):
        if lacking:
            print(f"LoRA Train: {in_words(lacking)} not installed, because the WebUI was started with --skip-install.")
        return
    if lacking:
        reason = _install(launch, lacking, constraints)
        if reason:
            print(
                f"LoRA Train: {in_words(lacking)} could not be added ({reason}); the WebUI starts without training and "
                "tries again next time."
            )
            return  # what hinders these hinders the optional one as well
    for package in wanted:
        reason = _install(launch, [package], constraints)
        if reason:
            memory.write_text(_torch(), encoding="utf-8")
            print(
                f"LoRA Train: {package} could not be added ({reason}); only the 8-bit optimizer needs it, and it is tried "
                f"again once {memory} is deleted."
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
    return "pip reported success, but they are not there" if set(packages) & set(missing()) else ""


def _run_pip(command: str) -> None:
    """As the WebUI's `launch.run_pip`, for a start outside of one."""
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
    """A file that pins every installed package to its version."""
    with tempfile.TemporaryDirectory(prefix="lora-train-") as folder:
        path = Path(folder, "constraints.txt")
        path.write_text("".join(f"{line}\n" for line in _installed()), encoding="utf-8")
        yield path


def _installed() -> list[str]:
    """Everything installed as name==version. The first of a name counts, as it does for an import."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # Left-overs of a broken uninstallation have no name; a version that pip cannot read would stop it altogether.
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if name and version and VERSION.fullmatch(version):
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _optional_is_worth_trying(memory: Path) -> bool:
    if installed_version(OPTIONAL_PACKAGE) is not None:
        return False
    if memory.is_file() and memory.read_text(encoding="utf-8") == _torch():
        return False
    return _torch_has_cuda() and _gpu_count() > 0


def _torch() -> str:
    return installed_version("torch") or ""


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, from the file that says so; importing it would take seconds."""
    try:
        file = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py")))
        return re.search(r"^cuda\b.*= *['\"]\d", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (importlib.metadata.PackageNotFoundError, OSError):
        return False


def _gpu_count() -> int:
    """How many GPUs the NVIDIA driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _reason(output: str) -> str:
    """What pip's output says in few words; pip's own last error where none is known."""
    for sign, meaning in REASONS:
        if sign.lower() in output.lower():
            return meaning
    errors = re.findall(r"^(?:stdout: |stderr: )?(error: .+)$", output, re.MULTILINE | re.IGNORECASE)
    return _one_line(errors[-1] if errors else output.strip().rpartition("\n")[2])


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300] or "without a message"
