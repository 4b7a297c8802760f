"""What a host decides of a checkpoint, whatever program it is in."""

import pytest

from lib_lora_train.hosts.base import zero_terminal_snr


@pytest.mark.parametrize(
    ("setting", "prediction", "marked", "expected"),
    [
        ("auto", "v", True, True),
        ("auto", "v", False, False),
        ("auto", "epsilon", True, False),
        ("auto", "", True, False),
        ("on", "v", False, True),
        ("on", "epsilon", False, True),
        ("off", "v", True, False),
    ],
)
def test_a_checkpoints_marker_for_zero_terminal_snr_counts_for_v_prediction_and_a_setting_always(
    setting, prediction, marked, expected
):
    assert zero_terminal_snr(setting, prediction, marked) is expected
