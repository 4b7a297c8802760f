"""The environment of a WebUI that shares its checkpoint, for tests of what tab and API share."""

from __future__ import annotations

from pathlib import Path

from lib_lora_train.hosts.environment import Environment
from lib_lora_train.model.shared_checkpoint import SharedCheckpoint
from lib_lora_train.safe_paths import PathPolicy, readable_folder
from tests.training.runs import SharingHost


def webui_environment(checkpoint: SharedCheckpoint, folder: Path) -> Environment:
    """An environment in `folder`. Its users have no login: they can read the dataset folder only."""
    data = folder / "data"
    policy = PathPolicy(allow_any=False, roots=[data / "datasets"])
    return Environment(
        title="test",
        make_host=lambda model: SharingHost(checkpoint),
        lora_dir=folder / "Lora",
        data_dir=data,
        shares_checkpoint=True,
        readable=lambda text: readable_folder(text, policy),
    )
