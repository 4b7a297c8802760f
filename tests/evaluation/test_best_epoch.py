"""Which epoch is recommended, and the sentence that says why."""

import pytest

from lib_lora_train.evaluation.best_epoch import Recommendation, balanced, recommend, shares, standard_error
from lib_lora_train.training.events import Validated


def epochs(losses: dict[int, float]) -> dict[int, Validated]:
    """Epochs of which the mean loss alone is known."""
    return {epoch: Validated(epoch, loss) for epoch, loss in losses.items()}


def measured(epoch: int, *parts: float) -> Validated:
    return Validated(epoch, sum(parts) / len(parts), list(parts))


def test_the_lowest_loss_wins_and_is_set_against_the_base():
    assert recommend(epochs({0: 0.2, 1: 0.18, 2: 0.15}), [1, 2]) == Recommendation(
        2, "Epoch 2 has the lowest loss on the held-out images, 25.0 % below the base's."
    )


def test_a_loss_that_rises_again_is_called_learning_by_heart():
    assert recommend(epochs({0: 0.2, 1: 0.1, 2: 0.12, 3: 0.16}), [1, 2, 3]) == Recommendation(
        1,
        "Epoch 1 has the lowest loss on the held-out images, 50.0 % below the base's; "
        "by epoch 3 it has risen to 20.0 % below the base's, a sign of learning by heart.",
    )


def test_a_loss_that_differs_by_chance_only_is_as_good_as_the_lowest():
    validated = {1: measured(1, 0.1, 0.2, 0.3, 0.4), 2: measured(2, 0.14, 0.17, 0.33, 0.37)}
    assert recommend(validated, [1, 2]) == Recommendation(
        2,
        "Epoch 2 is the last whose loss on the held-out images, 0.2525, is as good as the lowest (epoch 1).",
    )


def test_a_loss_that_is_higher_on_every_image_is_not_though_the_images_differ_much():
    validated = {1: measured(1, 0.1, 0.2, 0.3, 0.4), 2: measured(2, 0.11, 0.21, 0.31, 0.415)}
    assert recommend(validated, [1, 2]).epoch == 1


def test_every_noise_level_counts_alike_however_large_its_losses():
    # The plain means would choose epoch 1, whose loss is lower where all losses are large.
    validated = {0: measured(0, 1.0, 0.01), 1: measured(1, 0.90, 0.010), 2: measured(2, 0.95, 0.005)}
    assert shares(validated[2], validated[0]) == pytest.approx([0.95, 0.5])
    assert recommend({**validated, 3: measured(3, 0.99, 0.009)}, [1, 2, 3]) == Recommendation(
        2,
        "Epoch 2 has the lowest loss on the held-out images, 27.5 % below the base's; "
        "by epoch 3 it has risen to 5.5 % below the base's, a sign of learning by heart.",
    )


def test_what_is_shown_is_on_the_scale_of_the_bases_loss():
    base = measured(0, 1.0, 0.01)
    assert balanced(base, base) == pytest.approx(base.loss)
    assert balanced(measured(1, 0.95, 0.005), base) == pytest.approx(0.725 * base.loss)
    assert balanced(measured(1, 0.95, 0.005), None) == pytest.approx(0.4775)


def test_parts_that_are_not_the_bases_are_not_set_against_them():
    assert shares(measured(1, 0.1, 0.2, 0.3), measured(0, 0.4, 0.4)) == pytest.approx([0.5])
    assert shares(measured(1, 0.1, 0.2), measured(0, 0.0, 0.4)) == pytest.approx([0.75])


def test_the_error_is_that_of_the_mean_of_differences_between_the_same_images():
    # Differences 1, 3: mean 2, standard deviation sqrt(2), of the mean 1.
    assert standard_error([2.0, 5.0], [1.0, 2.0]) == pytest.approx(1.0)


@pytest.mark.parametrize("parts", [[], [0.3], [0.3, 0.3, 0.3]])
def test_without_the_same_parts_nothing_is_known_of_chance(parts):
    assert standard_error(parts, [0.1, 0.2]) == 0


def test_an_adapter_worse_than_the_base_is_said_to_be():
    assert "10.0 % above the base's" in recommend(epochs({0: 0.2, 1: 0.22}), [1]).reason


def test_without_the_bases_loss_there_is_nothing_to_set_it_against():
    assert recommend(epochs({1: 0.22}), [1]).reason == "Epoch 1 has the lowest loss on the held-out images, 0.2200."


def test_only_epochs_that_have_a_file_are_recommended():
    assert recommend(epochs({0: 0.3, 1: 0.1, 2: 0.2, 4: 0.25}), [2, 4]).epoch == 2


def test_of_equal_losses_the_later_epoch_wins():
    assert recommend(epochs({1: 0.2, 2: 0.1, 3: 0.1}), [1, 2, 3]).epoch == 3


def test_without_losses_the_last_epoch_is_recommended_and_the_reason_is_honest():
    for losses in ({}, {0: 0.2}):
        assert recommend(epochs(losses), [1, 5]) == Recommendation(
            5, "Epoch 5 is the last; no images were held out to measure by."
        )
