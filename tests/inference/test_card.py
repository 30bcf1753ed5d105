"""What the card of a checkpoint says about its training."""

import pytest

from optformer.configs import finetune
from optformer.inference import card
from optformer.train.config import to_dict


@pytest.mark.parametrize(
    "content, length, longest",
    [
        ({}, 128, 152),
        ({"max_trials": 200}, 200, 200),
        ({"train_config": {"shape": {"trials": 48}}}, 48, 144),
        ({"train_config": {"shape": {"trials": 64}}}, 64, 152),
        ({"train_config": None}, 128, 152),
        ({"max_trials": 1}, 128, 152),
    ],
)
def test_the_length_of_histories(content, length, longest):
    assert card.trained_length(content) == length
    assert card.predicted_from(content) == longest


@pytest.mark.parametrize(
    "trained, rate",
    [
        (card.trained_without_trials, "blind_rate"),
        (card.trained_with_earlier_studies, "earlier_rate"),
        (card.trained_with_curves, "partial_rate"),
    ],
)
def test_rates_of_the_prior_and_of_the_augmentation_count(trained, rate):
    for part in ("prior", "augmentation"):
        assert trained({"train_config": {part: {rate: 0.1}}})
    for config in (None, {}, {"prior": {rate: 0.0}, "augmentation": None}, {"prior": {"other_rate": 0.1}}):
        assert not trained({"train_config": config})
    assert not trained({})


def test_a_fine_tuned_model_still_suggests_first_trials_and_reads_earlier_studies_and_curves():
    tuned = {"train_config": to_dict(finetune.get_config())}
    assert card.trained_without_trials(tuned)
    assert card.trained_with_earlier_studies(tuned)
    assert card.trained_with_curves(tuned)
