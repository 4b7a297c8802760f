"""The rules of the code's structure: who may import whom, no cycles, one name for one class, and short functions."""

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lib_lora_train"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

BASE = {"config", "distributed", "errors", "files", "image_geometry", "randomness", "text_files", "wording"}
HOST_INTERFACE = {"hosts.base", "hosts.environment"}
ALLOWED = {
    "errors": set(),
    "distributed": set(),
    "image_geometry": set(),
    "wording": set(),
    "recent_speed": set(),
    "randomness": {"errors"},
    "files": {"errors"},
    "text_files": {"errors"},
    "config": {"errors"},
    "requirements_check": set(),
    "missing_packages": {"errors", "files", "requirements_check"},
    "installer": {"missing_packages", "requirements_check"},
    "safe_paths": {"config", "errors"},
    "presets": {"config", "errors", "files", "text_files"},
    "model": BASE,
    "checkpoints": BASE | {"model"},
    "hosts": BASE | {"model", "checkpoints"},
    "adapters": BASE | {"model", "checkpoints"},
    "dataset": BASE,
    "uploads": {"errors", "safe_paths", "dataset"},
    "objectives": BASE | {"model", "dataset"},
    "training": BASE | {"model", "dataset", "adapters", "objectives"} | HOST_INTERFACE,
    "evaluation": BASE | {"model", "checkpoints", "dataset", "adapters", "objectives", "training"} | HOST_INTERFACE,
    "queue": BASE | {"recent_speed", "training"} | HOST_INTERFACE,
    "environment_config": BASE | {"training"} | HOST_INTERFACE,
    "service": BASE | {"model", "training", "evaluation", "dataset", "queue", "environment_config"} | HOST_INTERFACE,
    "embedded": BASE | {"model"},
}
"""Package or module -> what it may import besides itself."""
ENTRY_POINTS = {"cli", "__main__", "ui", "api", "webui", "__init__"}
"""May import everything."""

WEBUI_MODULES = {"modules", "modules_forge", "backend", "launch", "ldm_patched"}
MAY_IMPORT_WEBUI = {"hosts", "ui", "api", "evaluation", "webui"}
ONLY_IN = {"gradio": {"ui"}, "fastapi": {"api"}, "peft": set()}
WITHOUT_TORCH = {
    "embedded/synthetic.py": {"numpy", "PIL"},
    "embedded/evaluator.py": {"numpy", "PIL"},
    "requirements_check.py": set(),
    "installer.py": set(),
    "missing_packages.py": set(),
    "safe_paths.py": set(),
    "evaluation/lora_tag.py": set(),
    "evaluation/runs.py": set(),
    "evaluation/tag_choice.py": set(),
    "evaluation/axis_values.py": set(),
    "checkpoints/safetensors_header.py": set(),
    **{f"config/{path.name}": {"tomli", "typing_extensions"} for path in (PACKAGE / "config").glob("*.py")},
}
"""Modules that must work without torch -> the packages outside the standard library that they may use."""

LONGEST_FUNCTION, LONGEST_CLASS = 50, 250
MAY_WRITE = {
    "files.py": "the atomic writer itself",
    "installer.py": "a constraints file in a temporary folder",
    "uploads.py": "copies to new files only",
    "training/run_folder.py": "appends events",
}
"""Modules that write files without lib_lora_train.files -> why."""


def tree(path: Path) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def imported(path: Path, *, at_runtime: bool = False) -> Iterator[str]:
    """Full dotted names of everything that a file imports, anywhere in it.

    With `at_runtime`, only what is imported when the module is: not inside functions, and not for type checkers.
    """
    for node in runtime_nodes(tree(path)) if at_runtime else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from runtime_nodes(child)


def package_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def ours(path: Path, *, at_runtime: bool = False) -> list[str]:
    """Names below lib_lora_train, such as hosts.base.Host."""
    names = imported(path, at_runtime=at_runtime)
    return [name.split(".", 1)[1] for name in names if name.startswith("lib_lora_train.")]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_package_imports_only_those_below_it(path):
    package = package_of(path)
    if package in ENTRY_POINTS:
        return
    allowed = ALLOWED[package] | {package}
    assert [name for name in ours(path) if not any(f"{name}.".startswith(f"{a}.") for a in allowed)] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_a_few_packages_know_the_webui(path):
    found = {name for name in imported(path) if name.split(".")[0] in WEBUI_MODULES}
    assert not found or package_of(path) in MAY_IMPORT_WEBUI


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_package_imports_nothing_that_is_not_shipped(path):
    assert {name for name in imported(path) if name.split(".")[0] in {"tests", "tools", "benchmarks"}} == set()


@pytest.mark.parametrize(("library", "packages"), ONLY_IN.items())
def test_a_library_is_used_in_its_own_package_only(library, packages):
    users = {package_of(path) for path in FILES if any(name.split(".")[0] == library for name in imported(path))}
    assert users <= packages


@pytest.mark.parametrize("path", WITHOUT_TORCH)
def test_what_must_work_without_torch_imports_no_more_than_it_may(path):
    import sys

    packages = {name.split(".")[0] for name in imported(Path(path))} - {"lib_lora_train", "__future__"}
    assert packages - set(sys.stdlib_module_names) <= WITHOUT_TORCH[path]


def test_no_module_imports_itself_through_others():
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

    def module_of(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    edges = {
        module: {found for name in ours(path, at_runtime=True) if (found := module_of(name)) not in (None, module)}
        for module, path in modules.items()
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in finished:
            for other in sorted(edges[module]):
                visit(other, (*trail, module))
            finished.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_no_two_classes_have_one_name():
    places = collections.defaultdict(list)
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", [path for path in FILES if path.as_posix() not in MAY_WRITE], ids=str)
def test_files_are_written_atomically(path):
    assert [ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and writes(node)] == []


@pytest.mark.parametrize("path", MAY_WRITE)
def test_exceptions_from_atomic_writing_are_needed(path):
    assert any(writes(node) for node in ast.walk(tree(Path(path))) if isinstance(node, ast.Call)) or path == "files.py"


def writes(call: ast.Call) -> bool:
    """Whether a call writes a file by itself: Path.write_text, os.replace, or open() with a mode for writing."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if isinstance(call.func, ast.Attribute) and name in ("write_text", "write_bytes", "savefig"):
        return True
    if name != "open":
        return ast.unparse(call.func) in ("os.replace", "os.rename", "shutil.copyfile")
    modes = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(set(mode) <= set("rwxab+t") and set(mode) & set("wxa") for mode in modes)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_images_are_opened_in_one_place(path):
    """Which refuses kinds of images that other programs would decode."""
    calls = [ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert "Image.open" not in calls or path.as_posix() == "dataset/image_formats.py"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_and_classes_are_short_enough_to_see(path):
    limits = {ast.FunctionDef: LONGEST_FUNCTION, ast.ClassDef: LONGEST_CLASS}
    sizes = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, tuple(limits)) and node.end_lineno - node.lineno + 1 > limits[type(node)]
    }
    assert sizes == {}
