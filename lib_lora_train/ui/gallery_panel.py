"""The dataset's images and captions: the handlers of uploads, thumbnails and captioning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lib_lora_train.dataset.captioning import CaptionReport
from lib_lora_train.errors import UserError
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.background import BackgroundTask, start_in_background
from lib_lora_train.ui.gallery import caption_of, open_page, thumbnails, write_caption
from lib_lora_train.ui.html import hint_html
from lib_lora_train.ui.page_state import GalleryState, PageState
from lib_lora_train.ui.parts import Part, control
from lib_lora_train.ui.updates import Updates, message
from lib_lora_train.uploads import store_uploads, uploads_of
from lib_lora_train.wording import counted

UNNAMED = "images"
MAX_PROBLEMS = 5

NOTHING_SELECTED: Updates = {
    Part.CAPTION: {"value": "", "interactive": False, "label": "Caption"},
    Part.SAVE_CAPTION: {"interactive": False},
}


@dataclass
class GalleryPanel:
    """Shared by all pages. `captioning` is the last one; it continues when the page is closed."""

    service: TrainingService
    captioning: BackgroundTask[CaptionReport] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether images are being captioned."""
        return self.captioning is not None and not self.captioning.is_done

    # Uploads

    def store_uploads(self, files: str, upload_folder: Path, name: str | None, dataset_folder: str | None) -> Updates:
        """Stores uploaded files as a dataset and enters its folder. `files`: their paths on the server, as JSON."""
        if not files:
            return {}
        uploads = uploads_of(_paths(files), upload_folder)
        dataset = self._dataset_name((name or "").strip(), (dataset_folder or "").strip())
        folder = store_uploads(uploads, self.service.environment.datasets_dir, dataset)
        captions = sum(upload.is_caption for upload in uploads)
        also = f" and {counted(captions, 'caption')}" if captions else ""
        updates: Updates = {Part.UPLOADED: {"value": ""}, control("dataset_folder"): {"value": str(folder)}}
        return updates | message(f"Saved in {folder}: {counted(len(uploads) - captions, 'image')}{also}.")

    def _dataset_name(self, name: str, dataset_folder: str) -> str:
        """The run's name; without one, the uploaded dataset that is in use, so that files are added to it; else a new one."""
        root, current = self.service.environment.datasets_dir, Path(dataset_folder)
        if name:
            return name
        if dataset_folder and current.is_absolute() and current.parent == root:
            return current.name
        taken = {path.name for path in root.glob(f"{UNNAMED}-*")}
        return next(new for new in (f"{UNNAMED}-{i}" for i in range(1, len(taken) + 2)) if new not in taken)

    # Thumbnails

    def show_folder(self, dataset_folder: str, page: PageState) -> Updates:
        """Shows the images of a folder, unless they are shown already."""
        gallery = page.gallery
        if dataset_folder == gallery.dataset_folder and not _has_changed(gallery):
            return {}
        gallery.dataset_folder = dataset_folder
        return self._open(0, gallery)

    def turn(self, pages: int, page: PageState) -> Updates:
        """Shows the images `pages` pages further on; backward if negative."""
        gallery = page.gallery
        return self._open(gallery.page.number + pages, gallery) if gallery.page else {}

    def _open(self, number: int, gallery: GalleryState) -> Updates:
        gallery.selected, gallery.page = None, None
        gallery.folder = self._readable(gallery.dataset_folder)
        if gallery.folder is None:
            return NOTHING_SELECTED | {
                Part.GALLERY: {"value": []},
                Part.GALLERY_TITLE: {"value": ""},
                Part.GALLERY_BOX: {"visible": False},
            }
        gallery.modified = gallery.folder.stat().st_mtime_ns
        shown = gallery.page = open_page(gallery.folder, number)
        several = shown.pages > 1
        return NOTHING_SELECTED | {
            Part.GALLERY: {"value": thumbnails(shown)},
            Part.GALLERY_TITLE: {"value": hint_html(shown.title)},
            Part.GALLERY_BOX: {"visible": True},
            Part.PREVIOUS_IMAGES: {"visible": several, "interactive": shown.number > 0},
            Part.NEXT_IMAGES: {"visible": several, "interactive": shown.number + 1 < shown.pages},
        }

    def _readable(self, dataset_folder: str) -> Path | None:
        try:
            return self.service.environment.readable(dataset_folder) if dataset_folder else None
        except UserError:
            return None  # the plan shows the problem

    # Captions

    def select(self, index: int, page: PageState) -> Updates:
        """Shows the caption of an image of the page, to be edited."""
        shown = page.gallery.page
        if shown is None or not 0 <= index < len(shown.paths):
            return {}
        image = page.gallery.selected = shown.paths[index]
        caption, label = caption_of(shown.folder, image), f"Caption of {image.name}"
        return {
            Part.CAPTION: {"value": caption, "interactive": True, "label": label},
            Part.SAVE_CAPTION: {"interactive": True},
        }

    def save_caption(self, text: str | None, page: PageState) -> Updates:
        """Writes the caption of the selected image."""
        gallery = page.gallery
        if gallery.selected is None or gallery.page is None:
            raise UserError("Click an image first.")
        file = write_caption(gallery.selected, text or "")
        gallery.page = open_page(gallery.page.folder, gallery.page.number)
        gallery.modified = gallery.page.folder.stat().st_mtime_ns
        updates: Updates = {Part.GALLERY: {"value": thumbnails(gallery.page)}}
        return updates | message(f"{file.name} was saved.")

    def caption_all(self, captioner: str, dataset_folder: str, trigger_word: str, overwrite: bool) -> Updates:
        """Starts captioning all images, or stops it if it is running."""
        if self.captioning and not self.captioning.is_done:
            self.captioning.stop_requested = True
            return message("Captioning stops after the current image.")

        def work(task: BackgroundTask[CaptionReport]) -> CaptionReport:
            return self.service.caption(
                (dataset_folder or "").strip(),
                captioner,
                overwrite=bool(overwrite),
                trigger_word=(trigger_word or "").strip(),
                progress=task.progress,
                should_stop=task.should_stop,
            )

        self.captioning = start_in_background(f"Captioning with {captioner}", work)
        return message(f"Captioning with {captioner} has started. Press the button again to stop.")

    def captioning_progress(self, page: PageState) -> Updates:
        """The progress of captioning; at its end the report and the new captions."""
        task = self.captioning
        if task is None:
            return {}
        if not task.is_done:
            return page.changes({Part.CAPTIONING_PROGRESS: {"value": hint_html(task.text), "visible": True}})
        updates = page.changes({Part.CAPTIONING_PROGRESS: {"value": "", "visible": False}})
        if page.gallery.captioning is task:
            return updates
        page.gallery.captioning = task
        problems = task.result.problems[:MAX_PROBLEMS] if task.result else []
        text = "\n".join([task.error or str(task.result), *problems])
        return updates | message(text, error=bool(task.error)) | self.turn(0, page)


def _has_changed(gallery: GalleryState) -> bool:
    try:
        return gallery.folder is not None and gallery.folder.stat().st_mtime_ns != gallery.modified
    except OSError:
        return True


def _paths(text: str) -> list[str]:
    try:
        paths = json.loads(text)
    except (ValueError, RecursionError):
        paths = None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UserError("The upload failed. Drop the files again.")
    return paths
