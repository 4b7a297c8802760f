"""Class images: generated once, reused by later runs, and neither lost nor generated again by a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from lib_lora_train.config import CheckpointConfig
from lib_lora_train.errors import UserError
from lib_lora_train.hosts.environment import Txt2ImgRequest
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.training import class_images as module
from lib_lora_train.training.class_images import ClassImages, generate_missing
from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.events import Finished, GeneratingClassImages, Stopped
from lib_lora_train.training.samples import sampling_options
from lib_lora_train.training.session import resume, train
from tests.training.runs import adapter_files, of_kind, photos

CLASS = {"training_method": "dreambooth", "trigger_word": "sks", "class_word": "cat", "sample_steps": 1}


@pytest.fixture
def class_images(tiny, host):
    """class_images(count, **settings): the class images of a run with these settings, and its config."""

    def make(count: int, **settings) -> tuple[ClassImages, object]:
        config = tiny(**{**CLASS, "num_class_images": count, **settings})
        found = ClassImages.of(config, host.describe())
        assert found is not None
        return found, config

    return make


class RecordingTxt2Img:
    """A WebUI's txt2img that records its requests, paints the seed, and can stop the run at a given request."""

    def __init__(self, stop_at: int = 0, control: Control | None = None) -> None:
        self.requests: list[Txt2ImgRequest] = []
        self.stop_at, self.control = stop_at, control

    def __call__(self, request: Txt2ImgRequest) -> Image.Image:
        self.requests.append(request)
        if self.control and len(self.requests) == self.stop_at:
            self.control.stop()
        return Image.new("RGB", (request.width, request.height), (request.seed, 0, 0))


def saved(images: ClassImages) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(images.folder.glob("*"))}


class TestGenerating:
    def test_makes_the_configured_number_with_the_prompts_in_turn_as_captions(self, class_images, host):
        images, config = class_images(3, class_prompts=["a cat", "a red cat"])
        events: list[GeneratingClassImages] = []
        generate_missing(images, config, host, Control(), events.append)
        captions = [path.read_text(encoding="utf-8") for path in sorted(images.folder.glob("*.txt"))]
        assert captions == ["a cat", "a red cat", "a cat"]
        assert [Image.open(path).size for path in sorted(images.folder.glob("*.png"))] == [(64, 64)] * 3
        assert events == [GeneratingClassImages(done, 3, str(images.folder)) for done in range(4)]

    def test_image_n_is_the_samplers_image_for_its_prompt_and_seed_n(self, class_images, host):
        images, config = class_images(2)
        generate_missing(images, config, host, Control(), lambda event: None)
        denoiser = open_denoiser(host.checkpoint, CheckpointConfig())
        (expected,) = generate(denoiser, ["cat"], "", [2], sampling_options(config))
        assert not ImageChops.difference(Image.open(images.path(2)), expected).getbbox()

    def test_a_webui_uses_its_own_txt2img(self, class_images, host):
        images, config = class_images(
            2, sample_sampler="euler_a", sample_cfg_scale=4.5, sample_negative_prompt="blurred"
        )
        txt2img = RecordingTxt2Img()
        generate_missing(images, config, host, Control(), lambda event: None, txt2img)
        assert [request.seed for request in txt2img.requests] == [1, 2]
        assert txt2img.requests[0] == Txt2ImgRequest("cat", "blurred", 1, 64, 64, "euler_a", 1, 4.5)
        assert Image.open(images.path(2)).getpixel((0, 0)) == (2, 0, 0)

    def test_missing_images_are_added_to_the_existing_ones(self, class_images, host):
        few, config = class_images(2)
        generate_missing(few, config, host, Control(), lambda event: None, RecordingTxt2Img())
        before, txt2img = saved(few), RecordingTxt2Img()
        more, config = class_images(4)
        assert more.folder == few.folder
        generate_missing(more, config, host, Control(), lambda event: None, txt2img)
        assert [request.seed for request in txt2img.requests] == [3, 4]
        assert before.items() <= saved(more).items()

    def test_an_image_in_the_middle_that_was_deleted_is_generated_with_its_own_seed(self, class_images, host):
        images, config = class_images(3)
        generate_missing(images, config, host, Control(), lambda event: None, RecordingTxt2Img())
        before, txt2img = saved(images), RecordingTxt2Img()
        images.path(1).unlink()
        generate_missing(images, config, host, Control(), lambda event: None, txt2img)
        assert [request.seed for request in txt2img.requests] == [1]
        assert saved(images) == before

    def test_no_image_is_without_its_caption_when_the_disk_is_full(self, class_images, host, monkeypatch):
        images, config = class_images(1)

        def refuse(path, text):
            raise UserError("The disk is full.")

        monkeypatch.setattr(module, "write_text", refuse)
        with pytest.raises(UserError, match="The disk is full"):
            generate_missing(images, config, host, Control(), lambda event: None, RecordingTxt2Img())
        assert images.missing() == [1]

    def test_a_stop_keeps_what_was_generated(self, class_images, host):
        images, config = class_images(3)
        control = Control()
        with pytest.raises(StopRequested):
            generate_missing(images, config, host, control, lambda event: None, RecordingTxt2Img(2, control))
        assert images.missing() == [3]

    def test_a_half_written_file_does_not_count_as_an_image(self, class_images, host):
        images, _config = class_images(1)
        images.folder.mkdir(parents=True)
        (images.folder / ".00001.png.x.tmp").write_bytes(b"half")
        assert images.missing() == [1]

    def test_fails_when_another_checkpoint_is_loaded_meanwhile(self, class_images, host, complaint, monkeypatch):
        images, config = class_images(3)
        monkeypatch.setattr(host.checkpoint, "legacy_hash", lambda: "other")
        text = complaint(generate_missing, images, config, host, Control(), lambda event: None, RecordingTxt2Img())
        assert text.startswith("Another checkpoint was loaded while class images were generated.")
        assert saved(images) == {}


class TestTheFolder:
    def test_depends_on_prompts_and_resolution_and_not_on_the_run(self, class_images):
        first, _ = class_images(2)
        assert class_images(9, name="another", seed=7, rank=4)[0].folder == first.folder
        for other in ({"class_word": "dog"}, {"class_prompts": ["a cat"]}, {"resolution": 128}):
            assert class_images(2, **other)[0].folder != first.folder

    def test_is_not_needed_with_a_regularization_folder_or_without_class_images(self, tiny, host, tmp_path):
        assert ClassImages.of(tiny(**CLASS, regularization_folder=str(tmp_path)), host.describe()) is None
        assert ClassImages.of(tiny(**CLASS, num_class_images=0), host.describe()) is None
        assert ClassImages.of(tiny(), host.describe()) is None


class TestARun:
    def test_generates_class_images_before_training(self, tiny, host):
        config, events = tiny(**CLASS, num_class_images=3), []
        train(config, host, events.append)
        generated = of_kind(events, GeneratingClassImages)
        assert [event.done for event in generated] == [0, 1, 2, 3]
        assert sorted(Path(generated[0].folder).glob("*.png"))
        assert of_kind(events, Finished)

    def test_uses_the_class_images_of_an_earlier_run(self, tiny, host):
        train(tiny(**CLASS, num_class_images=2), host)
        events: list = []
        train(tiny(**CLASS, num_class_images=2, name="second"), host, events.append)
        assert of_kind(events, GeneratingClassImages) == []
        assert of_kind(events, Finished)

    def test_stopped_while_generating_and_resumed_keeps_the_images_and_writes_the_same_bytes(
        self, tiny, host, tmp_path
    ):
        whole = tiny(
            **CLASS, num_class_images=3, runs_dir=str(tmp_path / "other"), lora_dir=str(tmp_path / "otherLora")
        )
        train(whole, host, txt2img=RecordingTxt2Img())
        control, events = Control(), []
        txt2img = RecordingTxt2Img(2, control)
        config = tiny(**CLASS, num_class_images=3)
        assert train(config, host, events.append, control, txt2img) is None
        assert events[-1] == Stopped(0)
        images = ClassImages.of(config, host.describe())
        before = {path: path.stat().st_mtime_ns for path in images.folder.glob("*")}
        again = RecordingTxt2Img()
        assert resume(Path(config.run.runs_dir) / "tiny", host, txt2img=again) is not None
        assert [request.seed for request in again.requests] == [3]
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert adapter_files(config) == adapter_files(whole)

    def test_cannot_be_resumed_on_another_checkpoint_and_generates_nothing_then(
        self, tiny, host, complaint, monkeypatch
    ):
        config, control = tiny(**CLASS, num_class_images=2, epochs=2), Control()

        def stop_after_an_epoch(event) -> None:
            if type(event).__name__ == "EpochDone":
                control.stop()

        assert train(config, host, stop_after_an_epoch, control, RecordingTxt2Img()) is None
        monkeypatch.setattr(host.checkpoint, "legacy_hash", lambda: "another")
        txt2img = RecordingTxt2Img()
        text = complaint(resume, Path(config.run.runs_dir) / "tiny", host, txt2img=txt2img)
        assert text.endswith("is not the checkpoint the run tiny began on. Load that checkpoint, or start a new run.")
        assert txt2img.requests == []


def test_none_are_generated_where_a_folder_tree_of_kohyas_has_some(tiny, tmp_path):
    photos(tmp_path / "tree" / "img" / "10_sks dog")
    config = tiny(
        training_method="dreambooth", trigger_word="sks", class_word="dog", dataset_folder=str(tmp_path / "tree")
    )
    assert ClassImages.wanted(config)
    photos(tmp_path / "tree" / "reg" / "1_dog")
    assert not ClassImages.wanted(config)
