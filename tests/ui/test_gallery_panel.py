"""Uploads, thumbnails and captions, without a browser."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time

import pytest

from lib_lora_train.errors import UserError
from lib_lora_train.ui.gallery_panel import GalleryPanel
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.parts import Part, control
from tests.training.runs import photos


@pytest.fixture
def panel(service):
    return GalleryPanel(service)


def upload(panel: GalleryPanel, folder, name: str = "", dataset_folder: str = "") -> dict:
    files = json.dumps([str(path) for path in sorted(folder.iterdir())])
    return panel.store_uploads(files, folder, name, dataset_folder)


def test_uploaded_files_become_a_dataset_whose_folder_is_entered(panel, tmp_path):
    updates = upload(panel, photos(tmp_path / "uploads", 2), name="star")
    folder = panel.service.environment.datasets_dir / "star"
    assert updates[control("dataset_folder")] == {"value": str(folder)}
    assert len(list(folder.iterdir())) == 4
    assert f"Saved in {folder}: 2 images and 2 captions." in updates[Part.NOTICE]["value"]


def test_without_a_name_files_are_added_to_the_dataset_in_use(panel, tmp_path):
    uploads = photos(tmp_path / "uploads", 1)
    first = upload(panel, uploads)[control("dataset_folder")]["value"]
    assert first.endswith("images-1")
    assert upload(panel, uploads, dataset_folder=first)[control("dataset_folder")]["value"] == first
    assert upload(panel, uploads)[control("dataset_folder")]["value"].endswith("images-2")


@pytest.mark.parametrize("files", ["{", "{}", "[1]", "[" * 100_000, '[["a.png"]]', "null"])
def test_an_upload_that_the_browser_garbled_is_refused(panel, tmp_path, files):
    with pytest.raises(UserError, match="Drop the files again"):
        panel.store_uploads(files, tmp_path, "star", "")


def test_an_upload_that_names_a_file_of_the_server_is_refused_and_nothing_is_stored(panel, tmp_path, monkeypatch):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "token.txt").write_text("SECRET")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="was not uploaded"):
        panel.store_uploads(json.dumps(["token.txt"]), tmp_path / "uploads", "star", "")
    assert not (panel.service.environment.datasets_dir / "star").exists()


def test_the_images_of_a_folder_are_shown_once(panel):
    page = PageState()
    updates = panel.show_folder("cats", page)
    assert len(updates[Part.GALLERY]["value"]) == 4
    assert updates[Part.GALLERY_BOX] == {"visible": True}
    assert panel.show_folder("cats", page) == {}
    assert panel.show_folder("", page)[Part.GALLERY_BOX] == {"visible": False}


def test_a_folder_whose_files_changed_is_shown_again(panel, tmp_path):
    page = PageState()
    panel.show_folder("cats", page)
    (tmp_path / "cats" / "0.png").unlink()
    assert len(panel.show_folder("cats", page)[Part.GALLERY]["value"]) == 3


def test_the_caption_of_the_selected_image_is_edited(panel, tmp_path):
    page = PageState()
    panel.show_folder("cats", page)
    with pytest.raises(UserError, match="Click an image first"):
        panel.save_caption("a cat", page)
    selected = panel.select(2, page)
    assert selected[Part.CAPTION]["label"] == "Caption of 2.png"
    assert selected[Part.CAPTION]["value"] == "a red star, cat, photo, blue 2"
    panel.save_caption("a cat", page)
    assert (tmp_path / "cats" / "2.txt").read_text().strip() == "a cat"
    assert panel.select(2, page)[Part.CAPTION]["value"] == "a cat"
    assert panel.show_folder("cats", page) == {}  # our own change is no reason to show the folder again


def test_captioning_reports_its_result_once_on_each_page(panel, tmp_path):
    @contextlib.contextmanager
    def captioner():
        yield lambda image: "a photo"

    environment = dataclasses.replace(panel.service.environment, captioners={"BLIP": captioner})
    panel.service.environment = environment
    (tmp_path / "cats" / "1.txt").unlink()
    page = PageState()
    panel.show_folder("cats", page)
    assert panel.captioning_progress(page) == {}
    panel.caption_all("BLIP", "cats", "sks", False)
    deadline = time.monotonic() + 60
    while panel.is_busy and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "cats" / "1.txt").read_text().strip() == "sks, a photo"
    updates = panel.captioning_progress(page)
    assert "1 caption written, 3 images already had one." in updates[Part.NOTICE]["value"]
    assert [caption for _, caption in updates[Part.GALLERY]["value"]][1] == "sks, a photo"
    assert panel.captioning_progress(page) == {}
    assert Part.NOTICE in panel.captioning_progress(PageState())
