"""Every way of teaching is a material that the session and the plan can run."""

from lib_lora_train.config import MODES
from lib_lora_train.training.lessons import MATERIALS


def test_every_mode_has_its_material():
    assert list(MATERIALS) == list(MODES)
