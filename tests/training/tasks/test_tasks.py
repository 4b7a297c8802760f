"""Every training method in the settings has its data."""

from lib_lora_train.config import TRAINING_METHODS
from lib_lora_train.training.tasks import TASKS


def test_every_training_method_has_its_task_data():
    assert list(TASKS) == list(TRAINING_METHODS)
