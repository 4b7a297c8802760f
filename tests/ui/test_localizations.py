"""The localization files: complete for labels, and without entries that the tab does not show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed")

from tests.ui.texts import help_texts, labels

FOLDER = Path(__file__).parents[2] / "localizations"
LANGUAGES = ("ja_JP", "zh_CN")


def read(language: str) -> dict[str, str]:
    """The entries of a file; fails if one appears twice."""

    def unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"), object_pairs_hook=unique)


def test_a_webui_finds_these_files():
    assert {path.name for path in FOLDER.iterdir()} == {f"{language}.json" for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_label_is_translated(language, tmp_path):
    assert sorted(labels(tmp_path) - read(language).keys()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_entry_is_stale(language, tmp_path):
    assert sorted(read(language).keys() - labels(tmp_path) - help_texts(tmp_path)) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_the_numbers_and_file_endings_of_the_text(language):
    """What a user would type or compare must not change on the way: numbers and file endings."""
    for text, translation in read(language).items():
        assert translation.strip() == translation != ""
        for literal in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?|\.[a-z]{3,}\b", text):
            assert literal in translation, text
