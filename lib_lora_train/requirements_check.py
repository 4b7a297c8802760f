"""Which packages training needs, which of them are missing, and which versions fit what the host has.

The tab asks before it imports anything else of ours, so this module needs the standard library alone and imports none
of the packages that it speaks of: looking them up takes milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping

HOST_PACKAGES = ("torch", "transformers", "numpy", "Pillow")
"""A WebUI cannot run without them, and in another version than its own it may not run either: never added."""

ADDED_PACKAGES = ("diffusers", "accelerate", "safetensors", "PyYAML", "tqdm")
TOML_READER = "tomli"
"""Added where Python itself cannot read TOML, before 3.11."""

OPTIONAL_PACKAGE = "bitsandbytes"
"""The 8-bit optimizer; of use on CUDA only."""

PINS: tuple[tuple[str, tuple[int, int], Mapping[str, str]], ...] = (
    # The newest that was tried with transformers 4.30 to 4.48.
    ("transformers", (5, 0), {"diffusers": "0.31.0"}),
    # Releases after this one need a newer torch.
    ("torch", (2, 2), {OPTIONAL_PACKAGE: "0.45.5"}),
)
"""A package of the host, the release before which the versions hold, and the versions. Elsewhere pip takes the newest."""

IMPORT_NAMES = {"Pillow": "PIL", "PyYAML": "yaml"}
USED = {
    "diffusers": ("AutoencoderKL", "UNet2DConditionModel"),
    "transformers": ("CLIPTextModel", "CLIPTokenizer"),
    "accelerate": ("Accelerator",),
}
"""What importing a package must yield for training to work with it."""


def installed_version(package: str) -> str | None:
    """The version as its metadata says; "" for a package that has none but can be imported; None when it is not there."""
    try:
        return importlib.metadata.version(package) or ""
    except importlib.metadata.PackageNotFoundError:
        return "" if importlib.util.find_spec(IMPORT_NAMES.get(package, package)) else None


def needed() -> list[str]:
    """The packages that training cannot do without, and that may be added to a host."""
    return [*ADDED_PACKAGES, TOML_READER] if sys.version_info < (3, 11) else list(ADDED_PACKAGES)


def missing() -> list[str]:
    """The packages that training cannot do without and that are not there, the host's own first."""
    return [package for package in (*HOST_PACKAGES, *needed()) if installed_version(package) is None]


def missing_message() -> str:
    """What is missing and how to add it, for the tab; "" when nothing is."""
    names = missing()
    if not names:
        return ""
    own = [name for name in names if name in HOST_PACKAGES]
    if own:
        return f"Training needs {in_words(own)}, which every WebUI has but this Python has not. Repair the WebUI's installation."
    command = f'"{sys.executable}" -m pip install {" ".join(pinned(names))}'
    return (
        f"Training needs {in_words(names)}, not installed yet. Start the WebUI again with a network connection and without "
        f"--skip-install, or run: {command}"
    )


def import_problem() -> str:
    """Why the installed packages do not work together, in a sentence; "" when they do.

    Unlike the rest of this module it imports them, which takes seconds the first time.
    """
    for package, names in USED.items():
        try:
            module = importlib.import_module(package)
            for name in names:
                getattr(module, name)
        except Exception as error:  # a package that does not fit its neighbours fails in any way while it is imported
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            fitting = " ".join(pinned([package]))
            return (
                f"The {package} {installed_version(package) or ''} of this WebUI does not work here ({reason}). "
                f"Whatever brought it may need it; where nothing does, replace it by {fitting}."
            )
    return ""


def pinned(packages: list[str]) -> list[str]:
    """The packages as pip reads them, in versions that fit the host's torch and transformers."""
    pins = dict(_pins())
    return [f"{package}=={pins[package]}" if package in pins else package for package in packages]


def in_words(names: list[str]) -> str:
    """A list as a sentence has it: diffusers, accelerate and tomli."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _pins() -> Iterator[tuple[str, str]]:
    for host, limit, pins in PINS:
        version = installed_version(host)
        if version and _release(version) < limit:
            yield from pins.items()


def _release(version: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", version.split("+")[0])]
    major, minor, *_ = [*numbers, 0, 0]
    return major, minor
