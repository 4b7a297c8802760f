"""Files at the top of the project agree with the package: its version, and the versions of other packages."""

import configparser
import json
import re
import sys
from pathlib import Path

import pytest

import lib_lora_train
from lib_lora_train.requirements_check import ADDED_PACKAGES, PINS, TOML_READER

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
VERSION = lib_lora_train.__version__


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements(name: str) -> dict[str, str]:
    """Package -> what follows its name, such as ==0.31.0, in a file of requirements/."""
    lines = [line.partition(";")[0].strip() for line in text_of(f"requirements/{name}.txt").splitlines()]
    found = [re.fullmatch(r"([\w.-]+)(.*)", line) for line in lines if line and not line.startswith("#")]
    return {match[1].lower(): match[2] for match in found if match}


class TestVersion:
    def test_is_the_projects(self):
        assert tomllib.loads(text_of("pyproject.toml"))["project"]["version"] == VERSION

    def test_is_the_newest_in_the_changelog_and_has_a_date(self):
        first = re.search(r"^## (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
        assert first
        assert re.fullmatch(rf"{re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)", first[1])

    def test_is_a_plain_release(self):
        assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


class TestPins:
    @pytest.mark.parametrize(("package", "version"), PINS[0][2].items())
    def test_of_what_is_added_to_a_webui_are_those_that_are_tested_on_a1111(self, package, version):
        assert PINS[0][0] == "transformers"
        assert requirements("a1111")[package] == f"=={version}"

    def test_in_the_documents_are_the_same(self):
        pins = {package: version for _, _, versions in PINS for package, version in versions.items()}
        for document in (
            "README.md",
            "CONTRIBUTING.md",
            *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
        ):
            for package, version in re.findall(r"([\w-]+)==([\d.]*\d)", text_of(document)):
                assert pins.get(package, version) == version, document

    @pytest.mark.parametrize("stack", ["a1111", "forge", "latest"])
    def test_of_every_stack_include_all_packages_that_are_added(self, stack):
        assert {package.lower() for package in (*ADDED_PACKAGES, TOML_READER)} <= set(requirements(stack))


def test_the_metadata_name_the_extension_as_its_repository():
    metadata = configparser.ConfigParser()
    metadata.read_string(text_of("metadata.ini"))
    name = tomllib.loads(text_of("pyproject.toml"))["project"]["name"]
    assert metadata["Extension"]["Name"] == name
    assert json.loads(text_of("docs/extension-index.json"))["url"].endswith(f"/{name}.git")


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
    ],
)
def test_files_that_a_document_mentions_exist(document):
    paths = re.findall(r"\b(?:benchmarks|docs|lib_lora_train|presets|tests|tools)/[\w/-]+\.[a-z]+\b", text_of(document))
    assert [path for path in paths if not (ROOT / path).exists()] == []
