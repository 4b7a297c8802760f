"""The recommended epoch, and the reason for it."""

import pytest

from lib_lora_train.evaluation.best_epoch import Recommendation, balanced, recommend, relative_losses, standard_error
from lib_lora_train.training.events import Validated


def epochs(losses: dict[int, float]) -> dict[int, Validated]:
    """Epochs of which only the mean loss is known."""
    return {epoch: Validated(epoch, loss) for epoch, loss in losses.items()}


def measured(epoch: int, *parts: float) -> Validated:
    return Validated(epoch, sum(parts) / len(parts), list(parts))


def test_the_lowest_loss_wins_and_is_compared_with_the_base_model():
    assert recommend(epochs({0: 0.2, 1: 0.18, 2: 0.15}), [1, 2]) == Recommendation(
        2, "Epoch 2 has the lowest loss on the validation images, 25.0 % below the base model's."
    )


def test_a_loss_that_rises_again_is_called_overfitting():
    assert recommend(epochs({0: 0.2, 1: 0.1, 2: 0.12, 3: 0.16}), [1, 2, 3]) == Recommendation(
        1,
        "Epoch 1 has the lowest loss on the validation images, 50.0 % below the base model's; "
        "by epoch 3 it rises to 20.0 % below the base model's, a sign of overfitting.",
    )


def test_a_loss_within_one_standard_error_is_as_good_as_the_lowest():
    validated = {1: measured(1, 0.1, 0.2, 0.3, 0.4), 2: measured(2, 0.14, 0.17, 0.33, 0.37)}
    assert recommend(validated, [1, 2]) == Recommendation(
        2,
        "Epoch 2 is the last one whose loss on the validation images, 0.2525, is as good as the lowest (epoch 1).",
    )


def test_a_loss_that_is_higher_on_every_image_is_not_even_if_images_differ_much():
    validated = {1: measured(1, 0.1, 0.2, 0.3, 0.4), 2: measured(2, 0.11, 0.21, 0.31, 0.415)}
    assert recommend(validated, [1, 2]).epoch == 1


def test_every_noise_level_has_the_same_weight_however_large_its_losses():
    # With plain means epoch 1 would win, whose loss is lower where all losses are large.
    validated = {0: measured(0, 1.0, 0.01), 1: measured(1, 0.90, 0.010), 2: measured(2, 0.95, 0.005)}
    assert relative_losses(validated[2], validated[0]) == pytest.approx([0.95, 0.5])
    assert recommend({**validated, 3: measured(3, 0.99, 0.009)}, [1, 2, 3]) == Recommendation(
        2,
        "Epoch 2 has the lowest loss on the validation images, 27.5 % below the base model's; "
        "by epoch 3 it rises to 5.5 % below the base model's, a sign of overfitting.",
    )


def test_the_displayed_loss_is_on_the_scale_of_the_base_models():
    base = measured(0, 1.0, 0.01)
    assert balanced(base, base) == pytest.approx(base.loss)
    assert balanced(measured(1, 0.95, 0.005), base) == pytest.approx(0.725 * base.loss)
    assert balanced(measured(1, 0.95, 0.005), None) == pytest.approx(0.4775)


def test_parts_that_do_not_match_the_base_models_are_not_compared_with_them():
    assert relative_losses(measured(1, 0.1, 0.2, 0.3), measured(0, 0.4, 0.4)) == pytest.approx([0.5])
    assert relative_losses(measured(1, 0.1, 0.2), measured(0, 0.0, 0.4)) == pytest.approx([0.75])


def test_the_standard_error_is_that_of_the_mean_difference_per_image():
    # Differences 1 and 3: mean 2, standard deviation sqrt(2), standard error 1.
    assert standard_error([2.0, 5.0], [1.0, 2.0]) == pytest.approx(1.0)


@pytest.mark.parametrize("parts", [[], [0.3], [0.3, 0.3, 0.3]])
def test_without_matching_parts_the_standard_error_is_0(parts):
    assert standard_error(parts, [0.1, 0.2]) == 0


def test_an_adapter_worse_than_the_base_model_is_reported():
    assert "10.0 % above the base model's" in recommend(epochs({0: 0.2, 1: 0.22}), [1]).reason


def test_without_the_base_models_loss_the_loss_itself_is_reported():
    assert recommend(epochs({1: 0.22}), [1]).reason == "Epoch 1 has the lowest loss on the validation images, 0.2200."


def test_only_epochs_that_have_a_file_are_recommended():
    assert recommend(epochs({0: 0.3, 1: 0.1, 2: 0.2, 4: 0.25}), [2, 4]).epoch == 2


def test_of_equal_losses_the_later_epoch_wins():
    assert recommend(epochs({1: 0.2, 2: 0.1, 3: 0.1}), [1, 2, 3]).epoch == 3


def test_of_equal_losses_the_earlier_epoch_is_called_the_lowest():
    reason = recommend(epochs({1: 0.2, 2: 0.1, 3: 0.1}), [1, 2, 3]).reason
    assert reason.endswith("is as good as the lowest (epoch 2).")


def test_without_losses_the_last_epoch_is_recommended():
    for losses in ({}, {0: 0.2}):
        assert recommend(epochs(losses), [1, 5]) == Recommendation(
            5, "Epoch 5 is the last one. There are no validation losses to compare."
        )
