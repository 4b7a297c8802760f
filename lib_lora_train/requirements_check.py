"""Which packages training needs, which of them are missing, and which versions fit the WebUI's own packages.

The tab needs this before the packages are installed. So this module uses the standard library only, and looks packages up
without importing them, which takes milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping

HOST_PACKAGES = ("torch", "transformers", "numpy", "Pillow")
"""Every WebUI has them in the versions that it needs. They are never added."""

ADDED_PACKAGES = ("diffusers", "accelerate", "safetensors", "PyYAML", "tqdm")
TOML_READER = "tomli"
"""Added before Python 3.11, which reads TOML itself."""

OPTIONAL_PACKAGE = "bitsandbytes"
"""For the 8-bit optimizer, on CUDA only."""

PINS: tuple[tuple[str, tuple[int, int], Mapping[str, str]], ...] = (
    # The newest that was tested with transformers 4.30 to 4.48.
    ("transformers", (5, 0), {"diffusers": "0.31.0"}),
    # Releases after this one need a newer torch.
    ("torch", (2, 2), {OPTIONAL_PACKAGE: "0.45.5"}),
)
"""(package of the WebUI, release, versions): before this release of the package, these versions are installed.

Otherwise pip takes the newest. The only place in the project that decides versions; tests compare the files with it."""

IMPORT_NAMES = {"Pillow": "PIL", "PyYAML": "yaml"}
USED = {
    "diffusers": ("AutoencoderKL", "UNet2DConditionModel"),
    "transformers": ("CLIPTextModel", "CLIPTokenizer"),
    "accelerate": ("Accelerator",),
}
"""Names that must be importable from a package for training to work."""

IMPORT_ERROR = "cannot be imported: "
"""What `import_error` starts with."""


def installed_version(package: str) -> str | None:
    """The version by the package's metadata; "" if it has none but can be imported; None if it is not installed."""
    try:
        return importlib.metadata.version(package) or ""
    except importlib.metadata.PackageNotFoundError:
        return "" if importlib.util.find_spec(IMPORT_NAMES.get(package, package)) else None


def needed() -> list[str]:
    """The packages that training needs and that may be added to a WebUI."""
    return [*ADDED_PACKAGES, TOML_READER] if sys.version_info < (3, 11) else list(ADDED_PACKAGES)


def missing() -> list[str]:
    """The packages that training needs and that are not installed, the WebUI's own first."""
    return [package for package in (*HOST_PACKAGES, *needed()) if installed_version(package) is None]


def import_problem() -> str:
    """Why the installed packages do not work together, in a sentence; "" when they do.

    Unlike the rest of this module it imports them, which takes seconds the first time.
    """
    for package in USED:
        if reason := _failed_import(package):
            fitting = " ".join(pinned([package]))
            return (
                f"The installed {package} {installed_version(package) or ''} does not work in this WebUI ({reason}). "
                f"If no other extension needs this version, install {fitting} instead."
            )
    return ""


def import_error(packages: list[str]) -> str:
    """IMPORT_ERROR and the reason if `packages`, or others that they may disturb, cannot be imported; else ""."""
    for package in dict.fromkeys([*packages, *USED, "torch"]):
        if reason := _failed_import(package):
            return f"{IMPORT_ERROR}{package}: {reason}"
    return ""


def _failed_import(package: str) -> str:
    """Why the package or one of the names in USED cannot be imported; "" if they can."""
    try:
        module = importlib.import_module(IMPORT_NAMES.get(package, package))
        for name in USED.get(package, ()):
            getattr(module, name)
    except Exception as error:  # importing a package that does not fit the others may raise anything
        return str(error).strip().split("\n")[0] or type(error).__name__
    return ""


def pinned(packages: list[str]) -> list[str]:
    """The packages as requirements for pip, in versions that fit the WebUI's torch and transformers."""
    pins = dict(_pins())
    return [f"{package}=={pins[package]}" if package in pins else package for package in packages]


def in_words(names: list[str]) -> str:
    """The names joined for a sentence: diffusers, accelerate and tomli."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _pins() -> Iterator[tuple[str, str]]:
    for package, limit, pins in PINS:
        version = installed_version(package)
        if version and _release(version) < limit:
            yield from pins.items()


def _release(version: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", version.split("+")[0])]
    major, minor, *_ = [*numbers, 0, 0]
    return major, minor
