"""Every test class is collected. pytest passes over one that a decorator has made a function, and says nothing."""

from __future__ import annotations

import ast
from pathlib import Path

FILES = sorted(Path(__file__).parent.rglob("test_*.py"))


def test_test_classes_have_no_decorators_but_marks():
    decorated = [
        f"{path.name}: @{ast.unparse(decorator)} class {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        for decorator in node.decorator_list
        if not ast.unparse(decorator).startswith("pytest.mark.")
    ]
    assert decorated == []
