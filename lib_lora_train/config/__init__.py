"""Every setting of a run, in one table.

The command line, the tab, the API, the presets, the documentation and the metadata inside an adapter are all made
from the dataclasses below: a field carries its label, help text, unit, range and default, and nothing else in the
project repeats them. This module imports nothing of ours but the error type, and no torch.

    config = TrainConfig.from_flat({"name": "mycat", "dataset_folder": "./photos", "rank": 8})
    for problem in config.problems():
        print(problem)
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora_train.errors import UserError

if typing.TYPE_CHECKING:
    from typing_extensions import Self


TRAINING_METHODS = {
    "captioned": "Images with captions",
    "dreambooth": "A thing and its class (DreamBooth)",
    "ileco": "Words: replace one by another (iLECO)",
    "leco": "Words: erase or emphasise (LECO)",
    "text_slider": "Words: a slider from one to another",
    "addift": "Image pairs: what changes from before to after (ADDifT)",
    "difference": "Image pairs: what is left to learn, in two passes (copier)",
    "image_slider": "Images at several levels: a slider",
}
"""Way of teaching -> its name for people, in the order in which they are offered."""

CAPTIONED = ("captioned", "dreambooth")
"""The modes that learn a folder of captioned images."""
PAIRS = ("addift", "difference")
LEVELS = (*PAIRS, "image_slider")
"""The modes that learn what tells pictures of the same thing apart."""
IMAGES = (*CAPTIONED, *LEVELS)
WORDS = ("ileco", "leco", "text_slider")
"""The modes that need no images."""
DRAWING = ("leco", "text_slider")
"""The modes that teach on pictures which the network half draws itself."""


@dataclass(frozen=True)
class Setting:
    """What a person needs to know of one field; kept in the dataclass field's metadata under "setting"."""

    label: str
    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    titles: tuple[str, ...] = ()
    """The choices' names for people, where they have others."""
    basic: bool = False
    """Whether most people set it: shown first in the tab and in the command line's help."""
    methods: tuple[str, ...] = ()
    """The modes that use it; none named means all. What a mode does not use is not shown, and never in its way."""

    def used_by(self, method: str) -> bool:
        return not self.methods or method in self.methods


@dataclass(frozen=True)
class Problem:
    """A fault in a configuration: the field's name, what is wrong with it, and the cure."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def setting(default: Any, label: str, help: str, **info: Any) -> Any:  # noqa: A002 - `help` is what it is called everywhere
    """A dataclass field that carries its `Setting`. A list default becomes a factory."""
    metadata = {"setting": Setting(label, help, **info)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunConfig:
    """How the run teaches, what it is called and where it writes."""

    training_method: str = setting(
        "captioned",
        "Teach by",
        "The way of teaching, which decides what else is asked for.",
        choices=tuple(TRAINING_METHODS),
        titles=tuple(TRAINING_METHODS.values()),
        basic=True,
    )
    name: str = setting("", "Name", "Names the adapter's file and its tag, <lora:name:1>.", basic=True)
    lora_dir: str = setting(
        "models/Lora", "LoRA folder", "Where adapters go: LORA_DIR/NAME/NAME.safetensors. The WebUI reads models/Lora."
    )
    runs_dir: str = setting(
        "lora-train-runs", "Runs folder", "Where a run keeps its settings, events, previews and resumable state."
    )
    seed: int = setting(
        0,
        "Seed",
        "The same seed and settings give the same adapter, byte for byte on a CPU.",
        minimum=0,
        maximum=2**32 - 1,
    )


@dataclass
class CheckpointConfig:
    """The checkpoint that is taught, and how it is read."""

    checkpoint: str = setting(
        "", "Checkpoint", "A Stable Diffusion 1.x, 2.x or XL .safetensors or .ckpt file.", basic=True
    )
    tokenizer: str = setting(
        "",
        "Tokenizer folder",
        "A folder with vocab.json and merges.txt. Empty: the folder named like the checkpoint beside it, else CLIP's own "
        "(downloaded once by transformers).",
    )
    prediction: str = setting(
        "auto",
        "Prediction type",
        "What the network predicts. auto: what the checkpoint says, else epsilon.",
        choices=("auto", "epsilon", "v"),
    )
    zero_terminal_snr: str = setting(
        "auto",
        "Zero terminal SNR",
        "Whether the last timestep is noise alone, as in some v-prediction models. auto: what the checkpoint says, else off.",
        choices=("auto", "on", "off"),
    )
    clip_skip: int = setting(
        1,
        "Clip skip",
        "Take the text features this many layers before the end; 1 is the last layer.",
        minimum=1,
        maximum=12,
    )
    max_tokens: int = setting(
        75,
        "Caption length",
        "Longer captions are cut; 150 and 225 read them in chunks of 75, as the WebUI does.",
        unit="tokens",
        choices=(75, 150, 225),
    )
    precision: str = setting(
        "auto",
        "Precision",
        "Of the arithmetic. auto: bf16 or fp16 on a GPU, fp32 on a CPU. Adapter weights are always fp32 while training.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    allow_image_generation: bool = setting(
        True,
        "Keep drawing meanwhile",
        "In a WebUI: images that are asked for are drawn between two slices of steps. Off: they "
        "wait until the run is over, and the run has all the memory.",
    )


@dataclass
class DatasetConfig:
    """The images, their captions, and how batches are made of them."""

    dataset_folder: str = setting(
        "",
        "Images",
        "Folder with the images to learn. Captions: NAME.txt or NAME.caption beside each, or metadata.jsonl. "
        "Sub-folders named 10_cat count each image ten times. Of pairs: those before, or all. Of a slider: sub-folders "
        "named by strength, such as -1 and 1, with the same file names.",
        basic=True,
        methods=IMAGES,
    )
    after_folder: str = setting(
        "",
        "Images after",
        "Folder with the images after, named like those before. Empty: they lie beside them, with the suffix.",
        methods=PAIRS,
    )
    after_suffix: str = setting("_after", "Suffix", "one_after.png is what one.png is to become.", methods=PAIRS)
    pair_strength: float = setting(
        1.0,
        "Strength of the pair",
        "The strength at which before becomes after. Less than 1 makes strength 1 go further.",
        minimum=0.01,
        maximum=10.0,
        methods=("addift",),
    )
    first_pass_epochs: int = setting(
        5,
        "Epochs of the first pass",
        "So many epochs learn the pictures before, and are not kept; all others learn the pictures after on top of it.",
        unit="epochs",
        minimum=1,
        maximum=100_000,
        methods=("difference",),
    )
    difference_mask: bool = setting(
        False,
        "Only where they differ",
        "Learn only the parts of the pictures that differ, the more the more they do.",
        methods=LEVELS,
    )
    trigger_word: str = setting(
        "",
        "Trigger word",
        "Put before every caption that lacks it; the whole caption of an image that has none.",
        basic=True,
        methods=IMAGES,
    )
    repeats: int = setting(
        0,
        "Repeats",
        "How often an epoch shows each image. 0: as often as makes about 150 pictures; where sub-folders "
        "are named 10_cat, only as they say.",
        unit="times",
        minimum=0,
        maximum=10_000,
        methods=IMAGES,
    )
    regularization_folder: str = setting(
        "",
        "Regularisation images",
        "Folder of captioned images of what must not change (other things of the same class). As many of them as of your "
        "own images are shown in each epoch.",
        methods=CAPTIONED,
    )
    class_word: str = setting(
        "",
        "Class word",
        "What the trigger word is one of, such as dog. Images without a caption are called by both (sks dog), and images "
        "of the class by this word alone.",
        basic=True,
        methods=("dreambooth",),
    )
    num_class_images: int = setting(
        100,
        "Class images",
        "How many images of the class are used. Where no folder of them is given, the checkpoint draws "
        "them before it learns, once; they are kept for later runs. 0: none are drawn, and all of a folder are used.",
        unit="images",
        minimum=0,
        maximum=10_000,
        methods=("dreambooth",),
    )
    class_prompts: list[str] = setting(
        [],
        "Class prompts",
        "What images of the class are drawn from, in turn, and their captions. Empty: the class word.",
        methods=("dreambooth",),
    )
    prior_loss_weight: float = setting(
        1.0,
        "Prior weight",
        "How much a regularisation image counts against one of your own.",
        minimum=0.0,
        maximum=10.0,
        methods=CAPTIONED,
    )
    prior_loss_weight_end: float = setting(
        -1.0,
        "Prior weight at the end",
        "The prior weight changes evenly to this over the run. -1: it stays as it is.",
        minimum=-1.0,
        maximum=10.0,
        methods=("dreambooth",),
    )
    resolution: int = setting(
        512,
        "Resolution",
        "Images are scaled to about this many pixels squared.",
        unit="px",
        minimum=64,
        maximum=2048,
        basic=True,
    )
    enable_bucket: bool = setting(
        True,
        "Keep aspect ratios",
        "Train each image in its own shape at equal area; off: crop all to squares.",
        methods=IMAGES,
    )
    min_bucket_reso: int = setting(
        0,
        "Shortest bucket side",
        "0: half the resolution (256 at 512).",
        unit="px",
        minimum=0,
        maximum=2048,
        methods=IMAGES,
    )
    max_bucket_reso: int = setting(
        0,
        "Longest bucket side",
        "0: twice the resolution (1024 at 512).",
        unit="px",
        minimum=0,
        maximum=4096,
        methods=IMAGES,
    )
    bucket_reso_steps: int = setting(
        64, "Bucket step", "Sides are multiples of this.", unit="px", minimum=8, maximum=256, methods=IMAGES
    )
    batch_size: int = setting(
        1,
        "Batch size",
        "Images per step and process; more is steadier and needs more memory.",
        unit="images",
        minimum=1,
        maximum=256,
        basic=True,
    )
    shuffle_caption: bool = setting(
        False, "Shuffle captions", "Put the comma-separated tags in a new order each time.", methods=CAPTIONED
    )
    keep_tokens: int = setting(
        1,
        "Keep first tags",
        "This many tags at the start stay first when captions are shuffled.",
        unit="tags",
        minimum=0,
        maximum=100,
        methods=CAPTIONED,
    )
    caption_dropout_rate: float = setting(
        0.0,
        "Caption dropout",
        "Share of the time an image is shown without its caption.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    flip_horizontally: bool = setting(
        False, "Mirror", "Show each image mirrored half of the time. Not for faces, text or logos.", methods=IMAGES
    )
    random_crop: bool = setting(
        False,
        "Random crop",
        "Cut at a random place instead of the centre. Encodes images at each step: slower.",
        methods=CAPTIONED,
    )
    color_jitter: float = setting(
        0.0,
        "Colour jitter",
        "Vary brightness, contrast and saturation by up to this share. Encodes at each step: slower.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    loss_mask: str = setting(
        "none",
        "Loss mask",
        "Learn only part of each image: alpha uses its transparency, folder the image of the same name in mask/ "
        "(white learns, black does not).",
        choices=("none", "alpha", "folder"),
        methods=IMAGES,
    )
    cache: str = setting(
        "memory",
        "Cache",
        "Images and captions are encoded once and kept in memory, or on disk (for large sets, and for later runs).",
        choices=("memory", "disk"),
        methods=IMAGES,
    )
    validation_images: int = setting(
        -1,
        "Held-out images",
        "Not trained on but used to measure each epoch. -1: one in ten, at least one from five images on.",
        unit="images",
        minimum=-1,
        maximum=1000,
        methods=CAPTIONED,
    )


@dataclass
class PromptsConfig:
    """What is taught by words alone."""

    prompt_pairs: list[str] = setting(
        [],
        "Changes",
        "What is asked for -> what comes instead: red -> blue swaps, circle -> erases, and square -> square "
        "keeps. Words reach prompts like themselves: write whole prompts too. Where LECO emphasises, a line without an arrow is enough. Of a slider: the low end -> the high end.",
        basic=True,
        methods=WORDS,
    )
    replacement_strength: float = setting(
        1.0,
        "How far",
        "1: to what stands behind the arrow; above 1 on in that direction, which erases more surely.",
        minimum=0.01,
        maximum=10.0,
        basic=True,
        methods=("ileco",),
    )
    action: str = setting(
        "erase",
        "Direction",
        "erase: away from the positive prompt; emphasise: towards it.",
        choices=("erase", "enhance"),
        basic=True,
        methods=("leco",),
    )
    positive_prompts: list[str] = setting(
        [],
        "Positive prompts",
        "What is erased or emphasised in the pictures of each change: one for all, or one for each. "
        "Name only what is to go, so that nothing else goes with it. Empty: what stands before the arrow; what is kept has none.",
        methods=("leco",),
    )
    target_prompts: list[str] = setting(
        [],
        "Acts on",
        "The prompts whose pictures the slider changes: one for all changes, or one for each. Empty: any picture.",
        basic=True,
        methods=("text_slider",),
    )
    guidance_scale: float = setting(
        1.0,
        "Guidance",
        "How far away from the positive prompt, or towards it; of a slider, how far from one end to the other.",
        minimum=0.0,
        maximum=30.0,
        methods=DRAWING,
    )
    denoising_steps: int = setting(
        20,
        "Drawing steps",
        "Of a whole picture, of which each step of training draws a part first. Fewer are faster; "
        "0 draws nothing and teaches on noise, as iLECO does.",
        unit="steps",
        minimum=0,
        maximum=100,
        methods=DRAWING,
    )
    denoising_guidance_scale: float = setting(
        3.0, "Drawing guidance", "CFG scale of that drawing.", minimum=1.0, maximum=30.0, methods=DRAWING
    )
    steps_per_epoch: int = setting(
        50,
        "Length of an epoch",
        "Batches between two saved adapters.",
        unit="batches",
        minimum=1,
        maximum=100_000,
        methods=WORDS,
    )
    dynamic_resolution: bool = setting(
        False,
        "Vary size and shape",
        "Between half the resolution and the whole, in steps of 64 px, each side by itself.",
        methods=WORDS,
    )


@dataclass
class AdapterConfig:
    """The LoRA: where it sits and how large it is."""

    rank: int = setting(
        16,
        "Rank",
        "Size of the adapter. 4-16 for a person or thing, 32-64 for a broad style.",
        minimum=1,
        maximum=512,
        basic=True,
    )
    alpha: float = setting(
        0.0,
        "Alpha",
        "The adapter's effect is scaled by alpha / rank. 0: the same as rank.",
        minimum=0.0,
        maximum=1024.0,
    )
    conv_rank: int = setting(
        0, "Convolution rank", "Above 0 adapts the 3x3 convolutions as well (LoCon).", minimum=0, maximum=512
    )
    conv_alpha: float = setting(
        0.0,
        "Convolution alpha",
        "As alpha, for the 3x3 convolutions. 0: the same as their rank.",
        minimum=0.0,
        maximum=1024.0,
    )
    targets: str = setting(
        "transformer",
        "Targets",
        "transformer: everything linear in the attention blocks, as kohya's LoRA; attention: only q, k, v and out.",
        choices=("transformer", "attention"),
    )
    train_text_encoder: bool = setting(
        False, "Train text encoder", "Adapt the text encoder too. Learns a name faster, forgets sooner."
    )
    trigger_vectors: int = setting(
        0,
        "Trigger vectors",
        "Above 0 the trigger word itself is learned too, as so many vectors: more likeness from a small "
        "adapter. They lie in the adapter's file; A1111 loads them with its tag, Forge and reForge do not. 1-4 if at all.",
        unit="vectors",
        minimum=0,
        maximum=32,
        methods=CAPTIONED,
    )
    continue_from: str = setting(
        "", "Continue from", "An adapter file to start from; rank and alpha are then the file's."
    )
    save_precision: str = setting("fp16", "Saved as", "Number format in the file.", choices=("fp16", "bf16", "fp32"))


@dataclass
class ObjectiveConfig:
    """What a step measures as loss."""

    loss_type: str = setting("mse", "Loss", "huber is less disturbed by odd images.", choices=("mse", "huber"))
    huber_delta: float = setting(0.1, "Huber delta", "Errors above this count linearly.", minimum=1e-6, maximum=100.0)
    loss_weighting: str = setting(
        "none",
        "Timestep weighting",
        "none: every timestep alike; min_snr: steadies training (Hang et al. 2023); debiased: Yu et al. 2023.",
        choices=("none", "min_snr", "debiased"),
        methods=CAPTIONED,
    )
    min_snr_gamma: float = setting(
        5.0, "Min-SNR gamma", "Used with min_snr.", minimum=0.01, maximum=100.0, methods=CAPTIONED
    )
    noise_offset: float = setting(
        0.0,
        "Noise offset",
        "Lets the adapter learn very dark or bright images; 0.05-0.1 if at all.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    multires_noise_iterations: int = setting(
        0,
        "Multi-resolution noise",
        "Adds noise at coarser scales this many times; 6-10 if at all.",
        unit="scales",
        minimum=0,
        maximum=20,
        methods=CAPTIONED,
    )
    multires_noise_discount: float = setting(
        0.3,
        "Multi-resolution discount",
        "How much each coarser scale counts against the finer one.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    min_timestep: int = setting(0, "First timestep", "Low timesteps are fine detail.", minimum=0, maximum=999)
    max_timestep: int = setting(
        1000, "Timestep limit", "High timesteps are composition; this one is no longer used.", minimum=1, maximum=1000
    )


@dataclass
class OptimizerConfig:
    """How a step changes the adapter."""

    optimizer: str = setting(
        "adamw", "Optimizer", "adamw8bit saves memory on CUDA (needs bitsandbytes).", choices=("adamw", "adamw8bit")
    )
    learning_rate: float = setting(
        1e-4,
        "Learning rate",
        "1e-4 is a good start; lower it when previews turn garish.",
        minimum=0.0,
        maximum=1.0,
        basic=True,
    )
    text_encoder_learning_rate: float = setting(
        0.0, "Text encoder learning rate", "0: half the learning rate.", minimum=0.0, maximum=1.0
    )
    text_encoder_stop_epoch: int = setting(
        0,
        "Text encoder until",
        "The text encoder, and the trigger's vectors, learn up to the end of this epoch; 0: to the end of the run.",
        unit="epochs",
        minimum=0,
        maximum=100_000,
    )
    embedding_learning_rate: float = setting(
        5e-4,
        "Trigger learning rate",
        "Of the trigger's vectors, where they are learned.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    weight_decay: float = setting(0.01, "Weight decay", "", minimum=0.0, maximum=1.0)
    max_grad_norm: float = setting(
        1.0, "Gradient clip", "Longest gradient a step may use; 0: no limit.", minimum=0.0, maximum=1000.0
    )
    lr_scheduler: str = setting(
        "cosine",
        "Learning rate schedule",
        "How the rate changes over the run.",
        choices=("constant", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    )
    lr_warmup_steps: int = setting(
        0, "Warm-up", "Steps in which the rate rises from 0.", unit="steps", minimum=0, maximum=1_000_000
    )


@dataclass
class TrainingConfig:
    """How long to train, and what to keep on the way."""

    epochs: int = setting(
        10, "Epochs", "How often all images are gone through.", minimum=1, maximum=100_000, basic=True
    )
    max_steps: int = setting(
        0, "Step limit", "Stop after this many steps; 0: after the epochs.", unit="steps", minimum=0, maximum=10_000_000
    )
    gradient_accumulation: int = setting(
        1,
        "Gradient accumulation",
        "Batches per step: the effect of a larger batch without its memory.",
        unit="batches",
        minimum=1,
        maximum=1024,
    )
    gradient_checkpointing: bool = setting(
        False, "Gradient checkpointing", "Half the memory for activations, about a quarter slower."
    )
    save_every_n_epochs: int = setting(
        1,
        "Save every",
        "An adapter file every so many epochs; 0: only at the end.",
        unit="epochs",
        minimum=0,
        maximum=100_000,
    )
    save_every_n_steps: int = setting(
        0,
        "Save also every",
        "An adapter file every so many steps; 0: none.",
        unit="steps",
        minimum=0,
        maximum=10_000_000,
    )
    save_state_every_n_minutes: float = setting(
        10.0,
        "Resumable state every",
        "Besides after each epoch; a crash loses no more than this.",
        unit="minutes",
        minimum=0.0,
        maximum=1440.0,
    )


@dataclass
class SampleConfig:
    """The pictures and figures made after each epoch."""

    sample_every_n_epochs: int = setting(
        1, "Preview every", "0: no previews.", unit="epochs", minimum=0, maximum=100_000
    )
    sample_prompts: list[str] = setting(
        [], "Preview prompts", "One picture each. Empty: the captions of the first images.", basic=True
    )
    sample_negative_prompt: str = setting("", "Negative prompt", "")
    sample_sampler: str = setting(
        "ddim", "Sampler", "Named as in the WebUI.", choices=("ddim", "euler", "euler_a", "dpm++_2m_karras")
    )
    sample_steps: int = setting(20, "Sampling steps", "", unit="steps", minimum=1, maximum=150)
    sample_cfg_scale: float = setting(
        7.0, "CFG scale", "How strictly the prompt is followed.", minimum=1.0, maximum=30.0
    )
    sample_seed: int = setting(1, "Preview seed", "", minimum=0, maximum=2**32 - 1)
    validate_every_n_epochs: int = setting(
        1,
        "Validate every",
        "Loss on the held-out images, with noise that never changes; 0: never.",
        unit="epochs",
        minimum=0,
        maximum=100_000,
        methods=CAPTIONED,
    )


@dataclass
class CompareConfig:
    """The grid of epochs against strengths; not part of a run's settings."""

    strengths: list[float] = setting(
        [0.0, 0.25, 0.5, 0.75, 1.0], "Strengths", "The columns: the number in <lora:name:1>.", basic=True
    )
    prompts: list[str] = setting(
        [], "Prompts", "One picture each in every cell. Empty: the run's preview prompts.", basic=True
    )
    seed: int = setting(1, "Seed", "The same in every cell.", minimum=0, maximum=2**32 - 1)
    output: str = setting("", "Grid file", "A .png; its figures go beside it as NAME.json. Empty: in the run's folder.")


GROUP_TITLES = {
    "run": "the run",
    "model": "the checkpoint",
    "dataset": "images and captions",
    "prompts": "prompts",
    "adapter": "the adapter",
    "objective": "the loss",
    "optimizer": "the optimizer",
    "training": "length and saving",
    "preview": "previews and validation",
}
"""Group of settings -> what it is about, in words."""

NAME_PATTERN = re.compile(r"[^\W_](?:[\w .+-]*[\w+-])?")
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul", "none", "new", "cache", "all"}
    | {f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10)}
)


@dataclass
class TrainConfig:
    """All settings of one run, by group. Field names are unique over all groups, so a flat name is enough everywhere."""

    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    preview: SampleConfig = field(default_factory=SampleConfig)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """A configuration with `values` (flat names) over the defaults.

        Raises:
            UserError: for unknown names and values of the wrong kind; all of them at once, with the cure.
        """
        config, problems = cls(), []
        known = {name: (group, hint) for name, group, hint in _flat_fields()}
        for name, value in values.items():
            if name not in known:
                problems.append(Problem(name, unknown_name(name, known)))
                continue
            group, hint = known[name]
            try:
                setattr(getattr(config, group), name, _converted(value, hint))
            except (TypeError, ValueError) as error:
                problems.append(Problem(name, str(error)))
        raise_problems(problems)
        return config

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Reads `to_toml`'s form; the group headings may be left out.

        Raises:
            UserError: when it is not TOML, or as `from_flat`.
        """
        return cls.from_flat(flat_from_toml(text))

    def to_flat(self) -> dict[str, Any]:
        """All settings by flat name, in the table's order."""
        return {name: getattr(getattr(self, group), name) for name, group, _ in _flat_fields()}

    def to_toml(self) -> str:
        """The settings as TOML, a table per group."""
        lines: list[str] = []
        for group in dataclasses.fields(self):
            lines.append(f"[{group.name}]")
            lines += [
                f"{name} = {_toml(value)}" for name, value in dataclasses.asdict(getattr(self, group.name)).items()
            ]
            lines.append("")
        return "\n".join(lines)

    def problems(self) -> list[Problem]:
        """Every fault that shows without touching the disk; an empty list when there is none."""
        found = [*_range_problems(self), *_name_problems(self.run.name), *_combination_problems(self)]
        return [problem for problem in found if self.uses(problem.field)]

    def normalized(self) -> Self:
        """What counts of these settings: all that the mode does not use is the default.

        Raises:
            UserError: for every fault, all at once.
        """
        raise_problems(self.problems())
        return self.from_flat({name: value for name, value in self.to_flat().items() if self.uses(name)})

    def uses(self, name: str) -> bool:
        """Whether the mode makes any use of the setting `name`."""
        return _facts()[name].used_by(self.run.training_method)


@dataclass(frozen=True)
class Field:
    """One setting, with all that a door needs to offer it."""

    group: str
    name: str
    type: Any
    default: Any
    info: Setting


def settings() -> Iterator[Field]:
    """Every setting of a run, in order: what the doors are made from."""
    for group, group_type in _group_types().items():
        yield from fields_of(group_type, group)


def fields_of(config_type: type, group: str = "") -> Iterator[Field]:
    """The settings of one dataclass of this module."""
    hints, defaults = typing.get_type_hints(config_type), config_type()
    for item in dataclasses.fields(config_type):
        yield Field(group, item.name, hints[item.name], getattr(defaults, item.name), item.metadata["setting"])


def flat_from_toml(text: str) -> dict[str, Any]:
    """The flat names and values in a TOML text, without judging them.

    Raises:
        UserError: when the text is not TOML, or a name stands in it twice.
    """
    # Not above: the tab that says what is missing must be there without it.
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"The settings file is not valid TOML: {error}. Mend that line.") from None
    groups = _group_types()
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        inner = value.items() if key in groups and isinstance(value, dict) else [(key, value)]
        for name, setting_value in inner:
            if name in flat:
                raise UserError(f"{name} stands twice in the settings file. Keep one.")
            flat[name] = setting_value
    return flat


def unknown_name(name: str, known: typing.Iterable[str]) -> str:
    """The message for a setting that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f"there is no such setting. Did you mean {near[0]}?" if near else "there is no such setting. Leave it out."


def raise_problems(problems: list[Problem]) -> None:
    """Raises one UserError that lists all of `problems`; does nothing when there are none."""
    if problems:
        raise UserError("\n".join(map(str, problems)))


def _group_types() -> dict[str, type]:
    return typing.get_type_hints(TrainConfig)


@functools.cache
def _facts() -> dict[str, Setting]:
    return {field.name: field.info for field in settings()}


@functools.cache
def _flat_fields() -> tuple[tuple[str, str, Any], ...]:
    """(setting, group, type) of every setting. Kept, since the types are evaluated anew whenever they are asked for."""
    groups = _group_types().items()
    return tuple((name, group, hint) for group, kind in groups for name, hint in typing.get_type_hints(kind).items())


def _converted(value: Any, hint: Any) -> Any:
    """`value` as the field's type; whole floats pass as ints and ints as floats, nothing else is guessed."""
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise TypeError(f"is {value!r} but must be true or false.")
    if hint is int:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer():
            return int(value)
        raise TypeError(f"is {value!r} but must be a whole number.")
    if hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise TypeError(f"is {value!r} but must be a number.")
    if hint is str:
        if isinstance(value, (str, Path)):
            return str(value)
        raise TypeError(f"is {value!r} but must be a text.")
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    raise TypeError(f"is {value!r} but must be a list of texts.")


def _toml(value: Any) -> str:
    # JSON's text, number, boolean and list forms are TOML's too, but for the DEL character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _range_problems(config: TrainConfig) -> Iterator[Problem]:
    flat = config.to_flat()
    for setting_field in settings():
        name, info = setting_field.name, setting_field.info
        value = flat[name]
        unit = f" {info.unit}" if info.unit else ""
        if info.choices and value not in info.choices:
            yield Problem(name, f"is {value!r} but must be one of {', '.join(map(str, info.choices))}.")
        elif isinstance(value, float) and not math.isfinite(value):
            yield Problem(name, f"is {value} but must be a finite number.")
        elif info.minimum is not None and value < info.minimum:
            yield Problem(name, f"is {value}{unit}, below the least, {info.minimum:g}. Raise it.")
        elif info.maximum is not None and value > info.maximum:
            yield Problem(name, f"is {value}{unit}, above the most, {info.maximum:g}. Lower it.")


def _name_problems(name: str) -> Iterator[Problem]:
    if not name:
        yield Problem("name", "is empty. Give the adapter a name, such as mycat.")
    elif not NAME_PATTERN.fullmatch(name) or ".." in name:
        yield Problem(
            "name",
            f"{name!r} cannot be a file name and a tag. Use letters, digits, spaces and . _ - +, and begin with a letter or digit.",
        )
    elif name.lower().split(".")[0] in RESERVED_NAMES:
        yield Problem("name", f"{name!r} is a reserved word. Choose another name.")
    elif len(name) > 100:
        yield Problem("name", f"has {len(name)} characters. Use at most 100.")
    elif len(name.encode()) > 200:  # file systems allow 255 bytes, and an epoch's number and ending need room
        yield Problem(
            "name",
            f"takes {len(name.encode())} bytes as a file name. Use at most 200, {len(name) * 200 // len(name.encode())} letters such as these.",
        )
    elif re.search(r"-(\d{6}|step\d{8})$", name):
        yield Problem("name", f"{name!r} ends like the file of an epoch. Choose another name.")


def _combination_problems(config: TrainConfig) -> Iterator[Problem]:
    data, objective, optimizer = config.dataset, config.objective, config.optimizer
    if objective.min_timestep >= objective.max_timestep:
        yield Problem(
            "min_timestep", f"is {objective.min_timestep}, not below max_timestep, {objective.max_timestep}. Lower it."
        )
    if optimizer.learning_rate == 0 and not (
        config.adapter.train_text_encoder and optimizer.text_encoder_learning_rate > 0
    ):
        yield Problem("learning_rate", "is 0, so nothing would be learned. Use 1e-4, say.")
    elif optimizer.learning_rate > 0.05:
        yield Problem(
            "learning_rate", f"is {optimizer.learning_rate:g}; above 0.05 training ends in NaN. Use 1e-4, say."
        )
    if data.resolution % 8:
        yield Problem("resolution", f"is {data.resolution}, not a multiple of 8. Use {data.resolution // 8 * 8}.")
    if data.enable_bucket:
        if data.bucket_reso_steps % 8:
            yield Problem("bucket_reso_steps", f"is {data.bucket_reso_steps}, not a multiple of 8. Use 64.")
        elif data.resolution < data.bucket_reso_steps:
            yield Problem(
                "bucket_reso_steps",
                f"is {data.bucket_reso_steps}, above the resolution, {data.resolution}. Lower it or switch buckets off.",
            )
        if data.min_bucket_reso and data.min_bucket_reso > data.resolution:
            yield Problem(
                "min_bucket_reso", f"is {data.min_bucket_reso}, above the resolution, {data.resolution}. Use 0."
            )
        if data.max_bucket_reso and data.max_bucket_reso < data.resolution:
            yield Problem(
                "max_bucket_reso", f"is {data.max_bucket_reso}, below the resolution, {data.resolution}. Use 0."
            )
    yield from _change_problems(config)
    if data.first_pass_epochs >= config.training.epochs:
        yield Problem(
            "first_pass_epochs",
            f"is {data.first_pass_epochs}, of {config.training.epochs} epochs in all, which leaves none for the second pass. Lower it.",
        )
    if not data.after_folder and not data.after_suffix.strip():
        yield Problem("after_suffix", "is empty, and so is after_folder. Give one of them, so that a pair can be told.")
    if config.run.training_method == "dreambooth":
        yield from _dreambooth_problems(data)
    if config.adapter.trigger_vectors:
        yield from _trigger_problems(data.trigger_word.strip())
    drawn = config.run.training_method == "dreambooth" and data.num_class_images
    if data.prior_loss_weight == 0 and (data.regularization_folder or drawn):
        yield Problem(
            "prior_loss_weight", "is 0, so the regularisation images would have no effect. Use 1, or leave them out."
        )


def _change_problems(config: TrainConfig) -> Iterator[Problem]:
    words = config.prompts
    if not words.prompt_pairs:
        yield Problem("prompt_pairs", "is empty. Write one in each line, such as circle -> square.")
        return
    if config.run.training_method == "text_slider" and (
        bare := [line for line in words.prompt_pairs if "->" not in line]
    ):
        yield Problem(
            "prompt_pairs", f"has {bare[0]!r}, which has one end only. Write the low end, an arrow and the high end."
        )
    for name, given in (("positive_prompts", words.positive_prompts), ("target_prompts", words.target_prompts)):
        if len(given) not in (0, 1, len(words.prompt_pairs)):
            yield Problem(
                name,
                f"has {len(given)} lines for {len(words.prompt_pairs)} changes. Give one for all, or one for each.",
            )


def _dreambooth_problems(data: DatasetConfig) -> Iterator[Problem]:
    trigger_word, word = data.trigger_word.strip(), data.class_word.strip()
    if not trigger_word:
        yield Problem("trigger_word", "is empty. Give a rare word for what is to be learned, such as sks.")
    if not word:
        yield Problem("class_word", "is empty. Say what it is one of, such as dog.")
    elif trigger_word and trigger_word.casefold() == word.casefold():
        yield Problem(
            "class_word", f"is the trigger word itself, {trigger_word!r}. Say what it is one of, such as dog."
        )
    for prompt in data.class_prompts:
        if trigger_word and re.search(rf"(?<!\w){re.escape(trigger_word)}(?!\w)", prompt, re.IGNORECASE):
            yield Problem(
                "class_prompts", f"{prompt!r} has the trigger word, which the class must not know. Leave it out there."
            )


def _trigger_problems(trigger_word: str) -> Iterator[Problem]:
    """What keeps a trigger word from being learned, and from being a name in a file."""
    if not trigger_word:
        yield Problem("trigger_word", "is empty, and trigger_vectors wants a word to learn. Give one, such as sks.")
    elif not re.fullmatch(r"[\w -]+", trigger_word):
        yield Problem(
            "trigger_word", f"{trigger_word!r} cannot be learned as a word. Use letters, digits, spaces, _ and - only."
        )
