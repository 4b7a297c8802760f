"""Every way of teaching is a material that the session and the plan can run."""

from lib_lora_train.config import TRAINING_METHODS
from lib_lora_train.training.tasks import TASKS


def test_every_mode_has_its_material():
    assert list(TASKS) == list(TRAINING_METHODS)
