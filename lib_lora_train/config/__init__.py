"""Every setting of a run, in one table.

The command line, the tab, the API, the presets, the documentation and the metadata of an adapter are made from the
dataclasses in `settings.py`: a field carries its label, help, unit, range and default, and nothing else repeats them. This
package imports nothing of ours but `errors`, and no torch.

    config = TrainConfig.from_flat({"name": "mycat", "dataset_folder": "./photos", "rank": 8})
    for problem in config.problems():
        print(problem)
"""

from lib_lora_train.config.methods import CAPTIONED, DENOISING, IMAGE_SETS, IMAGES, PAIRS, PROMPTS, TRAINING_METHODS
from lib_lora_train.config.paths import expanded_path
from lib_lora_train.config.sample_prompts import SamplePrompt
from lib_lora_train.config.schema import Field, Setting, fields_of, unknown_setting
from lib_lora_train.config.settings import (
    GROUP_TITLES,
    AdapterConfig,
    CheckpointConfig,
    CompareConfig,
    DatasetConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PromptsConfig,
    RunConfig,
    SampleConfig,
    TrainingConfig,
)
from lib_lora_train.config.train_config import TrainConfig, flat_from_toml, settings
from lib_lora_train.config.validation import NAME_PATTERN, RESERVED_NAMES
from lib_lora_train.errors import Problem, raise_problems

__all__ = [
    "CAPTIONED",
    "DENOISING",
    "GROUP_TITLES",
    "IMAGES",
    "IMAGE_SETS",
    "NAME_PATTERN",
    "PAIRS",
    "PROMPTS",
    "RESERVED_NAMES",
    "TRAINING_METHODS",
    "AdapterConfig",
    "CheckpointConfig",
    "CompareConfig",
    "DatasetConfig",
    "Field",
    "ObjectiveConfig",
    "OptimizerConfig",
    "Problem",
    "PromptsConfig",
    "RunConfig",
    "SampleConfig",
    "SamplePrompt",
    "Setting",
    "TrainConfig",
    "TrainingConfig",
    "expanded_path",
    "fields_of",
    "flat_from_toml",
    "raise_problems",
    "settings",
    "unknown_setting",
]
