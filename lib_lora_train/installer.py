"""Adds missing packages, and changes none that is installed.

pip runs with a constraints file that pins every installed package to its present version, so it can only add. What was
added is imported in a process of its own, and removed again if that fails: a package that does not fit the WebUI's own
could keep the WebUI from starting. When nothing is missing, a start costs a few look-ups: pip is not run and torch is not
imported.
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

from lib_lora_train import missing_packages
from lib_lora_train.requirements_check import (
    IMPORT_ERROR,
    OPTIONAL_PACKAGE,
    in_words,
    installed_version,
    missing,
    needed,
    pinned,
)

PIP_OPTIONS = "--disable-pip-version-check --no-input --timeout 10 --retries 1"
"""Short enough that a start without network does not wait for minutes."""

IMPORT_SECONDS = 600
"""A package that is not imported after this time is taken for one that cannot be imported."""

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


def add_missing(launcher: Callable[[], ModuleType | None], memory: Path = missing_packages.FILE) -> None:
    """Run by install.py at each start of the WebUI. Never raises: a failure is printed in one sentence.

    Args:
        launcher: returns the WebUI's `launch` module, or None outside a WebUI. Called only if something is to be installed.
        memory: the file of packages that are not tried again (missing_packages.py).
    """
    try:
        lacking = [package for package in needed() if _is_to_be_added(package, memory)]
        wanted = [OPTIONAL_PACKAGE] if _is_to_be_added(OPTIONAL_PACKAGE, memory) and _has_cuda() else []
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
        reason = _add(launch, lacking, constraints, memory)
        if reason:
            print(
                f"LoRA Train: {in_words(lacking)} could not be installed ({reason}). The WebUI starts without training"
                f"{'' if missing_packages.reason_for(lacking[0], memory) else ' and tries again next time'}."
            )
            return  # the optional package would fail for the same reason
    for package in wanted:
        reason = _add(launch, [package], constraints, memory)
        if reason:
            missing_packages.remember([package], reason, memory)
            print(
                f"LoRA Train: {package} could not be installed ({reason}). Only the 8-bit optimizer needs it. "
                f"Delete {memory} to try again."
            )


def _add(launch: ModuleType | None, packages: list[str], constraints: Path, memory: Path) -> str:
    """Installs packages that are left in place only if they can be imported; returns why they are not, or ""."""
    before = _installed()
    return _install(launch, packages, constraints) or _remove_if_broken(packages, before, memory)


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


def _remove_if_broken(packages: list[str], before: list[str], memory: Path) -> str:
    """Removes everything that was added since `before` if `packages` cannot be imported; returns why, or ""."""
    problem = _import_problem(packages)
    if not problem:
        return ""
    known = {line.partition("==")[0] for line in before}
    added = [name for name in (line.partition("==")[0] for line in _installed()) if name not in known]
    _run([sys.executable, "-m", "pip", "uninstall", "--yes", "--disable-pip-version-check", *added])
    importlib.invalidate_caches()
    reason = f"it does not work with this WebUI's packages: {problem}; it was removed again"
    missing_packages.remember(packages, reason, memory)
    return reason


def _import_problem(packages: list[str]) -> str:
    """Why `packages` cannot be imported beside the WebUI's own, in a process of its own; "" if they can."""
    root = str(Path(__file__).resolve().parents[1])
    code = (
        f"import sys; sys.path.append({root!r}); from lib_lora_train.requirements_check import import_error; "
        f"print(import_error({packages!r}), end='', file=sys.stderr)"
    )
    result = _run([sys.executable, "-c", code])
    last_line = result.stderr.strip().rpartition("\n")[2]
    if result.returncode != 0:  # it ended before it could report
        return _one_line(last_line) if last_line else f"Python ended with code {result.returncode}"
    return _one_line(last_line.removeprefix(IMPORT_ERROR)) if last_line.startswith(IMPORT_ERROR) else ""


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no end after {IMPORT_SECONDS} seconds")


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


def _is_to_be_added(package: str, memory: Path) -> bool:
    return installed_version(package) is None and not missing_packages.reason_for(package, memory)


def _has_cuda() -> bool:
    return _torch_has_cuda() and _gpu_count() > 0


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
