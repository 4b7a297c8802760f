"""Images of the class that a run must not spoil: drawn by the checkpoint itself, once, before it is taught.

    RUNS_DIR/cache/class-images/dog-v1-5-512-1a2b3c4d/  00001.png  00001.txt ...

A folder belongs to its prompts, checkpoint and resolution, not to a run. Image n is prompt n drawn from seed n, whoever
asks for it and however often drawing was cut short: what is there is never drawn again, and a run that asks for more
adds to it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_lora_train.config import TrainConfig
from lib_lora_train.errors import UserError
from lib_lora_train.files import write_text, written_whole
from lib_lora_train.hosts.base import Host
from lib_lora_train.hosts.environment import Txt2Img
from lib_lora_train.model.open_denoiser import open_denoiser
from lib_lora_train.model.sampling import generate
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.training.control import Control, StopRequested
from lib_lora_train.training.events import GeneratingClassImages
from lib_lora_train.training.samples import sampling_options, txt2img_request


@dataclass(frozen=True)
class ClassImages:
    """The images that a run asks for, drawn or not."""

    folder: Path
    prompts: Sequence[str]
    count: int
    side: int

    @classmethod
    def of(cls, config: TrainConfig, checkpoint: SharedCheckpoint) -> ClassImages | None:
        """What is to be drawn on `lent`; None where the run uses no class images, or those of a folder."""
        if not cls.wanted(config):
            return None
        data = config.dataset
        prompts = data.class_prompts or [data.class_word.strip()]
        belongs = "\n".join([checkpoint.name, checkpoint.legacy_hash(), *prompts])
        key = hashlib.blake2b(belongs.encode(), digest_size=4).hexdigest()
        names = "-".join(re.sub(r"[^\w.]+", "_", name)[:40] for name in (data.class_word.strip(), checkpoint.name))
        folder = Path(config.run.runs_dir) / "cache" / "class-images" / f"{names}-{data.resolution}-{key}"
        return cls(folder, prompts, data.num_class_images, data.resolution)

    @staticmethod
    def wanted(config: TrainConfig) -> bool:
        """Whether the run uses images that the checkpoint draws."""
        data = config.dataset
        return (
            config.run.training_method == "dreambooth"
            and data.num_class_images > 0
            and not data.regularization_folder.strip()
        )

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def prompt(self, number: int) -> str:
        return self.prompts[(number - 1) % len(self.prompts)]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.png"

    def missing(self) -> list[int]:
        """Numbers of the images that are still to be drawn."""
        there = {path.name for path in self.folder.glob("*.png")}
        return [number for number in self.numbers if self.path(number).name not in there]

    def keep(self, number: int, image: Image.Image) -> None:
        """Writes an image and its caption; the caption first, so that no image is ever without."""
        write_text(self.path(number).with_suffix(".txt"), self.prompt(number))
        with written_whole(self.path(number)) as file:
            image.convert("RGB").save(file, format="PNG")

    @property
    def note(self) -> str:
        """Where they are, for somebody who wants to look at them."""
        missing = len(self.missing())
        drawn = f", {missing} of which are drawn before the first step" if missing else ""
        return f"{self.count} images of the class{drawn}: {self.folder}."

    def applied_to(self, config: TrainConfig) -> TrainConfig:
        """`config` with the folder as if it had been given."""
        return replace(config, dataset=replace(config.dataset, regularization_folder=str(self.folder)))


def generate_missing(
    images: ClassImages,
    config: TrainConfig,
    host: Host,
    control: Control,
    report: Callable[[GeneratingClassImages], None],
    txt2img: Txt2Img | None = None,
) -> None:
    """Draws what is missing: with a WebUI's own txt2img, else with our sampler.

    Raises:
        UserError: when another checkpoint is loaded meanwhile, or the disk refuses.
        StopAskedFor: when the run is asked to stop.
    """
    missing = images.missing()
    there = images.count - len(missing)
    with _generator(images, config, host, txt2img) as generate:
        report(GeneratingClassImages(there, images.count, str(images.folder)))
        for done, number in enumerate(missing, start=there + 1):
            if control.stop_requested:
                raise StopRequested
            images.keep(number, generate(images.prompt(number), number))
            report(GeneratingClassImages(done, images.count, str(images.folder)))


@contextmanager
def _generator(
    images: ClassImages, config: TrainConfig, host: Host, txt2img: Txt2Img | None
) -> Iterator[Callable[[str, int], Image.Image]]:
    """(prompt, seed) to an image, as the run's previews are drawn."""
    if txt2img is not None:
        yield functools.partial(_generated_by_webui, txt2img, images, config, host)
        return
    with host.lease() as checkpoint, host.gpu_slot():
        denoiser, options = open_denoiser(checkpoint, config.model), sampling_options(config)
        negative = config.preview.sample_negative_prompt
        # One at a time, so that an image never depends on which others were still missing.
        yield lambda prompt, seed: generate(denoiser, [prompt], negative, [seed], options)[0]


def _generated_by_webui(
    txt2img: Txt2Img, images: ClassImages, config: TrainConfig, host: Host, prompt: str, seed: int
) -> Image.Image:
    image = txt2img(txt2img_request(config, prompt, seed))
    if ClassImages.of(config, host.describe()) != images:
        raise UserError(
            "Another checkpoint was loaded while images of the class were drawn. Load the former one and start again; "
            "those that are drawn are kept."
        )
    return image
