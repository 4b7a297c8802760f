"""The table of all settings of a run, by group. A field's name is unique over all groups, so a flat name is enough."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora_train.config.methods import CAPTIONED, DENOISING, IMAGE_SETS, IMAGES, PAIRS, PROMPTS, TRAINING_METHODS
from lib_lora_train.config.schema import setting


@dataclass
class RunConfig:
    """The training method, the run's name, and where it writes."""

    training_method: str = setting(
        "captioned",
        "Training method",
        "What to train from. Changes which settings are shown.",
        choices=tuple(TRAINING_METHODS),
        titles=tuple(TRAINING_METHODS.values()),
        basic=True,
    )
    name: str = setting("", "Name", "Name of the adapter's file and tag: <lora:NAME:1>.", basic=True)
    lora_dir: str = setting(
        "models/Lora",
        "LoRA folder",
        "Where adapters are saved: LORA_DIR/NAME/NAME.safetensors. The WebUI reads models/Lora.",
        path=True,
    )
    runs_dir: str = setting(
        "lora-train-runs",
        "Runs folder",
        "Where a run keeps its settings, events, sample images and resumable state.",
        path=True,
    )
    seed: int = setting(
        0,
        "Seed",
        "The same seed and settings give the same adapter; on a CPU, byte for byte.",
        minimum=0,
        maximum=2**32 - 1,
    )


@dataclass
class CheckpointConfig:
    """The checkpoint to train on, and how it is read."""

    checkpoint: str = setting(
        "",
        "Checkpoint",
        "A Stable Diffusion 1.x, 2.x or XL checkpoint: a .safetensors or .ckpt file.",
        path=True,
        basic=True,
    )
    tokenizer: str = setting(
        "",
        "Tokenizer folder",
        "A folder with vocab.json and merges.txt. Empty: the folder named like the checkpoint, next to it; else CLIP's own "
        "tokenizer, which transformers downloads once.",
        path=True,
    )
    prediction: str = setting(
        "auto",
        "Prediction type",
        "What the model predicts. auto: what the checkpoint says, else epsilon.",
        choices=("auto", "epsilon", "v"),
    )
    zero_terminal_snr: str = setting(
        "auto",
        "Zero terminal SNR",
        "Whether the last timestep is pure noise, as in some v-prediction models. auto: what the checkpoint says, else off.",
        choices=("auto", "on", "off"),
    )
    clip_skip: int = setting(
        1, "Clip skip", "Use the text features of this layer, counted from the last, which is 1.", minimum=1, maximum=12
    )
    max_tokens: int = setting(
        75,
        "Max token length",
        "Longer captions are cut. 150 and 225 use chunks of 75 tokens, as the WebUI does.",
        unit="tokens",
        choices=(75, 150, 225),
    )
    precision: str = setting(
        "auto",
        "Mixed precision",
        "Number format of the computation. auto: bf16 or fp16 on a GPU, fp32 on a CPU. Adapter weights are trained in fp32.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    allow_image_generation: bool = setting(
        True,
        "Allow image generation while training",
        "In a WebUI, images are generated between two slices of steps. Off: they wait until the run is over, and training can "
        "use all of the GPU's memory.",
    )


@dataclass
class DatasetConfig:
    """The images, their captions, and how batches are made of them."""

    dataset_folder: str = setting(
        "",
        "Dataset folder",
        "Folder of the training images. Captions: NAME.txt or NAME.caption next to each image, or metadata.jsonl. "
        "Sub-folders named 10_cat repeat each image ten times.",
        path=True,
        basic=True,
        methods=IMAGES,
        help_for={
            "addift": "Folder of the images before the change. Captions: NAME.txt or NAME.caption next to each image.",
            "difference": "Folder of the images before the change. Captions: NAME.txt or NAME.caption next to each image.",
            "image_slider": "Folder with a sub-folder for each strength, such as -1 and 1, with the same file names in each. "
            "Captions: NAME.txt or NAME.caption next to one image of each set.",
        },
    )
    after_folder: str = setting(
        "",
        "After folder",
        "Folder of the images after the change, with the same file names. Empty: they are in the dataset folder, with the suffix.",
        path=True,
        methods=PAIRS,
    )
    after_suffix: str = setting(
        "_after",
        "After suffix",
        'Suffix of the "after" image of a pair, e.g. one.png and one_after.png.',
        methods=PAIRS,
    )
    pair_strength: float = setting(
        1.0,
        "Pair strength",
        "The adapter strength at which before becomes after. Below 1, strength 1 goes further than the pairs.",
        minimum=0.01,
        maximum=10.0,
        methods=("addift",),
    )
    first_pass_epochs: int = setting(
        5,
        "Epochs of the first pass",
        "These epochs learn the images before. Their adapter is frozen and discarded; the other epochs learn the images after "
        "on top of it.",
        unit="epochs",
        minimum=1,
        maximum=100_000,
        methods=("difference",),
    )
    difference_mask: bool = setting(
        False,
        "Train only differences",
        "Train only the parts of the images that differ, more where they differ more.",
        methods=IMAGE_SETS,
    )
    trigger_word: str = setting(
        "",
        "Trigger word",
        "Added in front of captions that lack it. An image without a caption gets this word alone.",
        basic=True,
        methods=IMAGES,
        help_for={
            "dreambooth": "A rare word for your subject, such as sks. Images without a caption get it and the class word."
        },
    )
    repeats: int = setting(
        0,
        "Repeats",
        "How often each image is used in an epoch. 0: as often as makes about 150 samples, or as sub-folders named 10_cat say.",
        unit="times",
        minimum=0,
        maximum=10_000,
        methods=IMAGES,
    )
    regularization_folder: str = setting(
        "",
        "Regularization images",
        "Folder of captioned images that show what must not change, such as other things of the same class. An epoch uses as "
        "many of them as of your own images.",
        path=True,
        methods=CAPTIONED,
        help_for={"dreambooth": "Folder of images of the class. Empty: they are generated before training."},
    )
    class_word: str = setting(
        "",
        "Class word",
        "What your subject is, such as dog. Your images without a caption are called sks dog, class images dog.",
        basic=True,
        methods=("dreambooth",),
    )
    num_class_images: int = setting(
        100,
        "Number of class images",
        "How many class images are used. Without a folder of them, the model generates them once, before training, and keeps "
        "them for later runs. 0: none are generated, and all of a folder are used.",
        unit="images",
        minimum=0,
        maximum=10_000,
        methods=("dreambooth",),
    )
    class_prompts: list[str] = setting(
        [],
        "Class prompts",
        "Prompts that class images are generated from, in turn; they are also their captions. Empty: the class word.",
        methods=("dreambooth",),
    )
    prior_loss_weight: float = setting(
        1.0,
        "Prior loss weight",
        "How much a regularization image counts compared with one of your own.",
        minimum=0.0,
        maximum=10.0,
        methods=CAPTIONED,
    )
    prior_loss_weight_end: float = setting(
        -1.0,
        "Prior loss weight at the end",
        "The prior loss weight changes linearly to this value over the run. -1: it does not change.",
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
        help_for=dict.fromkeys(PROMPTS, "Width and height of the images that are denoised."),
    )
    enable_bucket: bool = setting(
        True,
        "Enable bucketing",
        "Train each image in its own aspect ratio, at equal area. Off: crop all images to squares.",
        methods=IMAGES,
    )
    min_bucket_reso: int = setting(
        0,
        "Min bucket resolution",
        "Shortest side. 0: half the resolution.",
        unit="px",
        minimum=0,
        maximum=2048,
        methods=IMAGES,
    )
    max_bucket_reso: int = setting(
        0,
        "Max bucket resolution",
        "Longest side. 0: twice the resolution.",
        unit="px",
        minimum=0,
        maximum=4096,
        methods=IMAGES,
    )
    bucket_reso_steps: int = setting(
        64, "Bucket resolution steps", "Sides are multiples of this.", unit="px", minimum=8, maximum=256, methods=IMAGES
    )
    batch_size: int = setting(
        1,
        "Batch size",
        "Images per step and process. More is steadier and needs more memory.",
        unit="images",
        minimum=1,
        maximum=256,
        basic=True,
        help_for={
            **dict.fromkeys(IMAGE_SETS, "Image sets per step and process. More is steadier and needs more memory."),
            **dict.fromkeys(PROMPTS, "Prompts per step and process. More is steadier and needs more memory."),
        },
    )
    shuffle_caption: bool = setting(
        False, "Shuffle captions", "Put comma-separated tags in a new order each time.", methods=CAPTIONED
    )
    keep_tokens: int = setting(
        1,
        "Keep tokens",
        "This many tags at the start stay in place when captions are shuffled.",
        unit="tags",
        minimum=0,
        maximum=100,
        methods=CAPTIONED,
    )
    caption_dropout_rate: float = setting(
        0.0,
        "Caption dropout rate",
        "How often an image is used without its caption.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    flip_horizontally: bool = setting(
        False, "Flip horizontally", "Mirror each image half of the time. Not for faces, text or logos.", methods=IMAGES
    )
    random_crop: bool = setting(
        False,
        "Random crop",
        "Crop at a random place instead of the center. Slower: images are encoded at each step.",
        methods=CAPTIONED,
    )
    color_jitter: float = setting(
        0.0,
        "Color jitter",
        "Vary brightness, contrast and saturation by up to this share. Slower: images are encoded at each step.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    loss_mask: str = setting(
        "none",
        "Loss mask",
        "Train only a part of each image. alpha: what is not transparent; folder: what is white in the image of the same name in "
        "mask/.",
        choices=("none", "alpha", "folder"),
        methods=IMAGES,
    )
    cache: str = setting(
        "memory",
        "Cache",
        "Images and captions are encoded once and cached in memory, or on disk for large datasets and later runs.",
        choices=("memory", "disk"),
        methods=IMAGES,
    )
    validation_images: int = setting(
        -1,
        "Validation images",
        "Images that are not trained on but used to measure each epoch. -1: one in ten, at least one from five images on.",
        unit="images",
        minimum=-1,
        maximum=1000,
        methods=CAPTIONED,
    )


@dataclass
class PromptsConfig:
    """What the methods that need no images train on."""

    prompt_pairs: list[str] = setting(
        [],
        "Prompt pairs",
        "prompt -> replacement.",
        basic=True,
        methods=PROMPTS,
        help_for={
            "ileco": "prompt -> replacement, such as red -> blue. Nothing after the arrow erases (circle ->); the same on both "
            "sides keeps (square -> square). Write whole prompts as well: a change reaches prompts like its own.",
            "leco": "prompt -> replacement, such as van gogh style ->. The same on both sides keeps (monet -> monet). To enhance, "
            "write the prompt alone.",
            "text_slider": "low end -> high end, such as a young person -> an old person.",
        },
    )
    replacement_strength: float = setting(
        1.0,
        "Replacement strength",
        "1 goes as far as the replacement; above 1 goes further in that direction, which erases more reliably.",
        minimum=0.01,
        maximum=10.0,
        basic=True,
        methods=("ileco",),
    )
    action: str = setting(
        "erase",
        "Action",
        "erase: away from the positive prompt. enhance: towards it.",
        choices=("erase", "enhance"),
        basic=True,
        methods=("leco",),
    )
    positive_prompts: list[str] = setting(
        [],
        "Positive prompts",
        "What is erased or enhanced: one prompt for all pairs, or one for each. Name only what is to change, so that nothing else "
        "changes with it. Empty: the prompt of each pair.",
        methods=("leco",),
    )
    target_prompts: list[str] = setting(
        [],
        "Target prompts",
        "Prompts whose images the slider changes: one for all pairs, or one for each. Empty: all images.",
        basic=True,
        methods=("text_slider",),
    )
    guidance_scale: float = setting(
        1.0,
        "Guidance scale",
        "How far away from the positive prompt, or towards it.",
        minimum=0.0,
        maximum=30.0,
        methods=DENOISING,
        help_for={"text_slider": "How far apart the two ends are. A slider that jumps from end to end has too much."},
    )
    denoising_steps: int = setting(
        20,
        "Denoising steps",
        "Steps of a whole image, of which each training step does a part. Fewer are faster. 0 trains on pure noise, as iLECO does.",
        unit="steps",
        minimum=0,
        maximum=100,
        methods=DENOISING,
    )
    denoising_guidance_scale: float = setting(
        3.0, "Denoising CFG scale", "CFG scale of these steps.", minimum=1.0, maximum=30.0, methods=DENOISING
    )
    steps_per_epoch: int = setting(
        50,
        "Batches per epoch",
        "Batches between two saved adapters.",
        unit="batches",
        minimum=1,
        maximum=100_000,
        methods=PROMPTS,
    )
    dynamic_resolution: bool = setting(
        False,
        "Dynamic resolution",
        "Vary width and height between half the resolution and all of it.",
        methods=PROMPTS,
    )


@dataclass
class AdapterConfig:
    """The LoRA: where it attaches and how large it is."""

    rank: int = setting(
        16,
        "Network rank (dim)",
        "Size of the adapter. 4-16 for a person or an object, 32-64 for a broad style.",
        minimum=1,
        maximum=512,
        basic=True,
    )
    alpha: float = setting(
        0.0,
        "Network alpha",
        "The adapter's effect is scaled by alpha / rank. 0: the same as the rank.",
        minimum=0.0,
        maximum=1024.0,
    )
    conv_rank: int = setting(
        0, "Conv rank (LoCon)", "Above 0, the 3x3 convolutions are trained as well.", minimum=0, maximum=512
    )
    conv_alpha: float = setting(
        0.0, "Conv alpha", "Alpha of the 3x3 convolutions. 0: the same as their rank.", minimum=0.0, maximum=1024.0
    )
    targets: str = setting(
        "transformer",
        "Target modules",
        "transformer: all linear layers of the attention blocks, as kohya's LoRA. attention: only q, k, v and out.",
        choices=("transformer", "attention"),
    )
    train_text_encoder: bool = setting(
        False,
        "Train text encoder",
        "Train the text encoder, too. Learns a name faster, and forgets other things sooner.",
    )
    trigger_vectors: int = setting(
        0,
        "Trigger embedding vectors",
        "Above 0, the trigger word is trained as an embedding of this many vectors, in the adapter's file. More likeness from a "
        "small adapter. A1111 loads it with the tag; Forge and reForge do not. 1-4 if used.",
        unit="vectors",
        minimum=0,
        maximum=32,
        methods=CAPTIONED,
    )
    continue_from: str = setting(
        "", "Continue from", "An adapter file to start from. Rank and alpha are then those of the file.", path=True
    )
    save_precision: str = setting(
        "fp16", "Save precision", "Number format of the saved file.", choices=("fp16", "bf16", "fp32")
    )


@dataclass
class ObjectiveConfig:
    """The loss of a step."""

    loss_type: str = setting("mse", "Loss type", "huber is less affected by unusual images.", choices=("mse", "huber"))
    huber_delta: float = setting(0.1, "Huber delta", "Errors above this count linearly.", minimum=1e-6, maximum=100.0)
    loss_weighting: str = setting(
        "none",
        "Loss weighting",
        "Weight of each timestep. min_snr makes training steadier (Hang et al. 2023); debiased: Yu et al. 2023.",
        choices=("none", "min_snr", "debiased"),
        methods=CAPTIONED,
    )
    min_snr_gamma: float = setting(
        5.0, "Min-SNR gamma", "Used with min_snr.", minimum=0.01, maximum=100.0, methods=CAPTIONED
    )
    noise_offset: float = setting(
        0.0,
        "Noise offset",
        "Lets the adapter learn very dark and very bright images. 0.05-0.1 if used.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    multires_noise_iterations: int = setting(
        0,
        "Multires noise iterations",
        "Adds noise at this many coarser scales. 6-10 if used.",
        unit="scales",
        minimum=0,
        maximum=20,
        methods=CAPTIONED,
    )
    multires_noise_discount: float = setting(
        0.3,
        "Multires noise discount",
        "How much each coarser scale counts compared with the finer one.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    min_timestep: int = setting(
        0,
        "Min timestep",
        "Low timesteps are fine detail.",
        minimum=0,
        maximum=999,
        help_for={"addift": "Low timesteps are fine detail. About 500 for a pose or expression, 200 for a style."},
    )
    max_timestep: int = setting(
        1000,
        "Max timestep",
        "High timesteps are composition. This timestep itself is not used.",
        minimum=1,
        maximum=1000,
        help_for={"addift": "High timesteps are composition. About 1000 for a pose or expression, 400 for a style."},
    )


@dataclass
class OptimizerConfig:
    """How a step changes the adapter."""

    optimizer: str = setting(
        "adamw", "Optimizer", "adamw8bit saves memory on CUDA and needs bitsandbytes.", choices=("adamw", "adamw8bit")
    )
    learning_rate: float = setting(
        1e-4,
        "Learning rate (UNet)",
        "Start with 1e-4. Lower it when sample images become garish.",
        minimum=0.0,
        maximum=1.0,
        basic=True,
    )
    text_encoder_learning_rate: float = setting(
        0.0, "Learning rate (text encoder)", "0: half the UNet's.", minimum=0.0, maximum=1.0
    )
    text_encoder_stop_epoch: int = setting(
        0,
        "Stop text encoder after",
        "The text encoder and the trigger embedding are trained up to the end of this epoch. 0: to the end of the run.",
        unit="epochs",
        minimum=0,
        maximum=100_000,
    )
    embedding_learning_rate: float = setting(
        5e-4,
        "Learning rate (trigger embedding)",
        "Used when the trigger word is trained as an embedding.",
        minimum=0.0,
        maximum=1.0,
        methods=CAPTIONED,
    )
    weight_decay: float = setting(0.01, "Weight decay", "Pulls weights towards 0.", minimum=0.0, maximum=1.0)
    max_grad_norm: float = setting(
        1.0, "Max grad norm", "Longer gradients are shortened to this. 0: no limit.", minimum=0.0, maximum=1000.0
    )
    lr_scheduler: str = setting(
        "cosine",
        "LR scheduler",
        "How the learning rate changes over the run.",
        choices=("constant", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    )
    lr_warmup_steps: int = setting(
        0, "Warm-up steps", "Steps in which the learning rate rises from 0.", unit="steps", minimum=0, maximum=1_000_000
    )
    lr_scheduler_num_cycles: int = setting(
        1,
        "LR scheduler cycles",
        "How often cosine_with_restarts falls from the learning rate to 0. 1: once, as cosine.",
        minimum=1,
        maximum=10_000,
    )
    lr_scheduler_power: float = setting(
        1.0,
        "LR scheduler power",
        "Of the polynomial scheduler. 1: a straight line, as linear; higher falls faster at first.",
        minimum=0.01,
        maximum=100.0,
    )


@dataclass
class TrainingConfig:
    """How long to train, and what to save on the way."""

    epochs: int = setting(
        10,
        "Epochs",
        "How often the whole dataset is trained.",
        minimum=1,
        maximum=100_000,
        basic=True,
        help_for={
            **dict.fromkeys(PROMPTS, "How many adapters are saved, each after the batches of an epoch."),
            "difference": "Epochs of both passes.",
        },
    )
    max_steps: int = setting(
        0,
        "Max train steps",
        "Stop after this many steps. 0: after the epochs.",
        unit="steps",
        minimum=0,
        maximum=10_000_000,
    )
    gradient_accumulation: int = setting(
        1,
        "Gradient accumulation steps",
        "Batches per step: the effect of a larger batch without its memory.",
        unit="batches",
        minimum=1,
        maximum=1024,
    )
    gradient_checkpointing: bool = setting(
        False, "Gradient checkpointing", "Halves the memory of activations. About a quarter slower."
    )
    save_every_n_epochs: int = setting(
        1, "Save every N epochs", "0: save only at the end.", unit="epochs", minimum=0, maximum=100_000
    )
    save_every_n_steps: int = setting(
        0,
        "Save every N steps",
        "Saves adapters between epochs, too. 0: none.",
        unit="steps",
        minimum=0,
        maximum=10_000_000,
    )
    save_state_every_n_minutes: float = setting(
        10.0,
        "Save state every N minutes",
        "The resumable state is saved this often, and after each epoch. A crash loses no more than this.",
        unit="minutes",
        minimum=0.0,
        maximum=1440.0,
    )


@dataclass
class SampleConfig:
    """The images and figures that are made after each epoch."""

    sample_every_n_epochs: int = setting(
        1, "Sample every N epochs", "0: no sample images.", unit="epochs", minimum=0, maximum=100_000
    )
    sample_prompts: list[str] = setting(
        [],
        "Sample prompts",
        "Generates one image per prompt after an epoch. Empty: the captions of the first images. Flags as in kohya's trainer: "
        "--n negative prompt, --w width, --h height, --d seed, --l CFG scale, --s steps.",
        basic=True,
        help_for=dict.fromkeys(PROMPTS, "Generates one image per prompt after an epoch. Empty: the first prompts."),
    )
    sample_negative_prompt: str = setting("", "Negative prompt", "Of the sample images.")
    sample_sampler: str = setting(
        "ddim", "Sampler", "Of the sample images.", choices=("ddim", "euler", "euler_a", "dpm++_2m_karras")
    )
    sample_steps: int = setting(20, "Sampling steps", "Of the sample images.", unit="steps", minimum=1, maximum=150)
    sample_cfg_scale: float = setting(7.0, "CFG scale", "Of the sample images.", minimum=1.0, maximum=30.0)
    sample_seed: int = setting(1, "Sample seed", "The same for all sample images.", minimum=0, maximum=2**32 - 1)
    validate_every_n_epochs: int = setting(
        1,
        "Validate every N epochs",
        "Measures the loss on the validation images, always with the same noise. 0: never.",
        unit="epochs",
        minimum=0,
        maximum=100_000,
        methods=CAPTIONED,
    )


@dataclass
class CompareConfig:
    """The grid of epochs against strengths. Not part of a run's settings."""

    strengths: list[float] = setting(
        [0.0, 0.25, 0.5, 0.75, 1.0], "Strengths", "One column each: the number in <lora:NAME:1>.", basic=True
    )
    prompts: list[str] = setting(
        [], "Prompts", "One image each in every cell. Empty: the run's sample prompts.", basic=True
    )
    seed: int = setting(1, "Seed", "The same in every cell.", minimum=0, maximum=2**32 - 1)
    output: str = setting(
        "", "Grid file", "A .png file; the figures are saved next to it. Empty: in the run's folder.", path=True
    )


GROUP_TITLES = {
    "run": "Run",
    "model": "Checkpoint",
    "dataset": "Images and captions",
    "prompts": "Prompts",
    "adapter": "Network",
    "objective": "Loss and noise",
    "optimizer": "Optimizer",
    "training": "Length and saving",
    "samples": "Samples and validation",
}
"""Group of settings -> its title."""
