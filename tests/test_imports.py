"""The house's rules on who may know whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lib_lora_train"
BASE = {"config", "errors", "files", "image_geometry", "randomness"}
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "files": {"errors"},
    "image_geometry": set(),
    "randomness": {"errors"},
    "requirements_check": set(),
    "installer": {"requirements_check"},
    "safe_paths": {"errors"},
    "uploads": {"errors", "safe_paths", "dataset"},
    "presets": {"config", "errors", "files"},
    "model": BASE,
    "dataset": BASE,
    "adapters": BASE | {"model"},
    "objectives": BASE | {"model", "dataset"},
    "training": BASE | {"model", "dataset", "adapters", "objectives", "hosts.base", "hosts.environment"},
    "evaluation": BASE | {"model", "dataset", "adapters", "objectives", "training", "hosts.base", "hosts.environment"},
    "queue": BASE | {"training", "hosts.base", "hosts.environment"},
    "service": BASE | {"model", "training", "evaluation", "dataset", "hosts.base", "hosts.environment", "queue"},
    "hosts": {"checkpoints", "config", "errors", "model"},
    "checkpoints": {"config", "errors", "model"},
    "embedded": BASE | {"model"},
}
"""Room -> what it may import besides itself. Doors (cli, ui, api) may import every room."""
DOORS = {"cli", "__main__", "ui", "api", "webui", "__init__"}
WEBUI = {"modules", "modules_forge", "backend", "launch", "ldm_patched"}
WEBUI_ROOMS = {"hosts", "ui", "api", "evaluation", "webui"}
ONLY_IN = {"gradio": {"ui"}, "fastapi": {"api"}, "peft": {"adapters"}}
PURE = {
    "embedded/synthetic.py": {"numpy", "PIL"},
    "embedded/evaluator.py": {"numpy", "PIL"},
    "config/__init__.py": {"tomli"},
} | {
    "requirements_check.py": set(),
    "installer.py": set(),
    "safe_paths.py": set(),
    "evaluation/lora_tag.py": set(),
    "evaluation/runs.py": set(),
    "evaluation/tag_choice.py": set(),
    "evaluation/axis_values.py": set(),
}
"""Modules that must run without torch -> the packages outside the standard library that they may use."""

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full dotted name of everything that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def ours(path: Path) -> list[str]:
    """Names below lib_lora_train, such as hosts.base.Host."""
    return [name.split(".", 1)[1] for name in imported(path) if name.startswith("lib_lora_train.")]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_room_knows_only_rooms_below_it(path):
    room = room_of(path)
    if room in DOORS:
        return
    allowed = ALLOWED[room] | {room}
    forbidden = [name for name in ours(path) if not any(f"{name}.".startswith(f"{a}.") for a in allowed)]
    assert forbidden == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_webuis_modules_are_imported_only_where_the_webui_is_known(path):
    if room_of(path) not in WEBUI_ROOMS:
        assert WEBUI.isdisjoint(name.split(".")[0] for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_heavy_packages_have_one_room_each(path):
    for package, rooms in ONLY_IN.items():
        if room_of(path) not in rooms:
            assert package not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_need_no_torch(name):
    import sys

    packages = {imported_name.split(".")[0] for imported_name in imported(Path(name))}
    assert packages - set(sys.stdlib_module_names) - PURE[name] <= {"lib_lora_train", "typing_extensions", "tomllib"}


def test_every_room_has_a_rule():
    assert {room_of(path) for path in FILES} <= set(ALLOWED) | DOORS
