"""Which epoch is recommended, and the sentence that says why."""

from lib_lora_train.compare.best import Recommendation, recommend


def test_the_lowest_loss_wins_and_is_set_against_the_base():
    assert recommend({0: 0.2, 1: 0.18, 2: 0.15}, [1, 2]) == Recommendation(
        2, "Epoch 2 has the lowest loss on the held-out images, 0.1500, 25 % below the base's."
    )


def test_a_loss_that_rises_again_is_called_learning_by_heart():
    assert recommend({0: 0.2, 1: 0.1, 2: 0.12, 3: 0.16}, [1, 2, 3]) == Recommendation(
        1,
        "Epoch 1 has the lowest loss on the held-out images, 0.1000, 50 % below the base's; "
        "by epoch 3 it has risen to 0.1600, a sign of learning by heart.",
    )


def test_an_adapter_worse_than_the_base_is_said_to_be():
    assert "10 % above the base's" in recommend({0: 0.2, 1: 0.22}, [1]).reason


def test_without_the_bases_loss_there_is_nothing_to_set_it_against():
    assert recommend({1: 0.22}, [1]).reason == "Epoch 1 has the lowest loss on the held-out images, 0.2200."


def test_only_epochs_that_have_a_file_are_recommended():
    assert recommend({0: 0.3, 1: 0.1, 2: 0.2, 4: 0.25}, [2, 4]).epoch == 2


def test_of_equal_losses_the_earlier_epoch_wins():
    assert recommend({1: 0.2, 2: 0.1, 3: 0.1}, [1, 2, 3]).epoch == 2


def test_without_losses_the_last_epoch_is_recommended_and_the_reason_is_honest():
    for losses in ({}, {0: 0.2}):
        assert recommend(losses, [1, 5]) == Recommendation(
            5, "Epoch 5 is the last; no images were held out to measure by."
        )
