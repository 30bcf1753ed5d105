"""Figures of merit against closed forms: calibrated, overconfident and blind predictors, and their intervals."""

import numpy as np
import pytest
from scipy import stats
from vizier import pyvizier as vz

from optformer.evaluate.calibration.forecasts import UniformForecast, WarpedForecast
from optformer.evaluate.calibration.output_warps import OutputWarp
from optformer.evaluate.calibration.prediction import MODEL, StudyCut, StudyScores, score_forecast
from optformer.evaluate.calibration.scores import (
    Resampling,
    chance_calibration_error,
    expected_calibration_error,
    rank_correlation,
    summarize,
)

pytestmark = pytest.mark.integration

PLAIN = OutputWarp("none", 0.0, 1.0)


def scores(factor: float, studies: int = 60, trials: int = 40, groups: int | None = None) -> list[StudyScores]:
    """Studies y ~ N(mu, sigma), sigma from 0.1 to 1 and mu in [-2, 2]; the model says N(mu, factor * sigma)."""
    made = []
    for index in range(studies):
        rng = np.random.default_rng(index)
        mu, sigma = rng.uniform(-2, 2, trials), np.full(trials, np.exp(rng.uniform(np.log(0.1), 0.0)))
        y = rng.normal(mu, sigma)
        cut = StudyCut(vz.ProblemStatement(), [], [], np.array([-2.5, 2.5]), y, -5.0, 5.0)
        forecasts = {
            MODEL: WarpedForecast(mu, factor * sigma, PLAIN),
            "gp": WarpedForecast(mu, sigma, PLAIN),
            "uniform": UniformForecast(-5.0, 5.0, trials),
        }
        scored = {name: score_forecast(forecast, cut) for name, forecast in forecasts.items()}
        group = f"group {index % groups}" if groups else f"study {index}"
        made.append(StudyScores("synthetic", f"study {index}", group, 10, y, -5.0, 5.0, scored))
    return made


def test_the_true_distribution_is_calibrated():
    summary = summarize(scores(1.0))
    figures = summary.predictors[MODEL]
    assert (summary.studies, summary.groups, summary.trials) == (60, 60, 2400)
    # What 2400 trials leave of a true error of 0.
    assert figures.calibration_error.value < 0.03
    for nominal, coverage in figures.coverage.items():
        assert coverage.value == pytest.approx(nominal, abs=0.04)
        assert coverage.low <= coverage.value <= coverage.high
    chi2 = stats.chisquare(2400 * figures.pit_histogram)
    assert chi2.pvalue > 1e-3, "the distribution function at the outcome is uniform"


def test_log_density_of_the_true_distribution_is_its_negative_entropy():
    made = scores(1.0, studies=200)
    entropies = []
    for index in range(200):
        rng = np.random.default_rng(index)
        rng.uniform(-2, 2, 40)
        entropies.append(0.5 * np.log(2 * np.pi * np.e) + rng.uniform(np.log(0.1), 0.0))
    figures = summarize(made).predictors[MODEL]
    assert figures.log_density.value == pytest.approx(-np.mean(entropies), abs=0.03)
    assert figures.relative.value == pytest.approx(figures.log_density.value + np.log(10.0))
    assert figures.relative.low < figures.relative.value < figures.relative.high


def test_overconfidence_shows():
    good, bad = summarize(scores(1.0)), summarize(scores(0.25))
    figures = bad.predictors[MODEL]
    assert figures.calibration_error.value > 0.2 > 5 * good.predictors[MODEL].calibration_error.value
    assert figures.coverage[0.9].value < 0.45
    assert figures.pit_histogram[0] > 3 / 20
    assert bad.against["gp"].difference.high < 0
    assert bad.against["gp"].share_ahead.value < 0.05


def test_ties_are_half_a_win():
    assert summarize(scores(1.0)).against["gp"].share_ahead.value == 0.5
    assert summarize(scores(1.0)).against["gp"].difference.value == 0.0


def test_the_uniform_is_the_origin():
    figures = summarize(scores(1.0)).predictors["uniform"]
    assert figures.relative.value == pytest.approx(0.0, abs=1e-12)
    assert figures.relative_median.value == pytest.approx(0.0, abs=1e-12)
    assert figures.class_log_score.value == pytest.approx(0.0, abs=1e-9)
    assert figures.rank_correlation.value == 0.0


def test_class_score_is_bounded_where_density_is_not():
    y = np.full(5, 0.5)
    cut = StudyCut(vz.ProblemStatement(), [], [], np.array([0.0, 1.0]), y, 0.0, 1.0)
    scored = score_forecast(WarpedForecast(y + 1e-7, np.full(5, 1e-6), PLAIN), cut)
    assert scored.log_density.mean() > 10
    assert scored.class_log_score.mean() <= np.log(100) + 1e-9


def test_classes_reach_to_infinity_at_the_ends():
    cut = StudyCut(vz.ProblemStatement(), [], [], np.array([0.25, 0.75]), np.array([-0.1, 1.2]), -0.1, 1.2)
    scored = score_forecast(WarpedForecast(np.array([-9.0, 9.0]), np.ones(2), PLAIN), cut)
    np.testing.assert_allclose(scored.confidence, 1.0)
    np.testing.assert_allclose(scored.hindsight_confidence, 1.0)
    assert scored.correct.all()
    assert scored.hindsight_correct.all()


def test_a_right_predictor_is_calibrated_on_classes_of_what_is_known_and_not_on_those_of_what_came_out():
    """Later trials of a study share a shift that nothing known tells: each is as likely as the predictor says."""
    made = []
    for index in range(400):
        rng = np.random.default_rng(index)
        mu = rng.uniform(-1, 1, 24)
        y = mu + rng.normal(0, 1) + 0.1 * rng.normal(size=24)
        cut = StudyCut(vz.ProblemStatement(), [], [], np.array([-1.0, 1.0]), y, float(y.min()), float(y.max()))
        scored = {MODEL: score_forecast(WarpedForecast(mu, np.full(24, np.hypot(1, 0.1)), PLAIN), cut)}
        made.append(StudyScores("synthetic", str(index), str(index), 2, y, float(y.min()), float(y.max()), scored))
    figures = summarize(made).predictors[MODEL]
    assert figures.calibration_error.value < 0.02
    assert figures.hindsight_error.value > 0.1


def test_calibration_error_is_the_weighted_gap_of_accuracy_and_confidence():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.15, 0.15])
    correct = np.array([True, True, False, False, False, False])
    assert expected_calibration_error(confidence, correct) == pytest.approx(4 / 6 * 0.45 + 2 / 6 * 0.15)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0.0


@pytest.mark.parametrize("trials", [50, 800])
def test_chance_error_is_the_mean_deviation_of_a_binomial_share(trials):
    expected = np.sqrt(2 / np.pi * 0.25 * 0.75 / trials)  # all in one bin
    assert chance_calibration_error(np.full(trials, 0.25)) == pytest.approx(expected, rel=0.15)
    assert chance_calibration_error(np.repeat([0.0, 1.0], trials)) == 0.0


def test_perfect_calibration_is_not_far_from_chance():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.05, 0.6, 2000)
    error = expected_calibration_error(confidence, rng.random(2000) < confidence)
    assert error < 2 * chance_calibration_error(confidence)
    assert expected_calibration_error(confidence, rng.random(2000) < 0.7 * confidence) > 3 * error


def test_groups_make_intervals_wider():
    alone = summarize(scores(1.0, studies=60)).predictors[MODEL].relative
    shared = Resampling([f"g{i // 20}" for i in range(60)])
    values = np.repeat([0.0, 1.0, 2.0], 20)
    grouped = shared.estimate(shared.mean(values))
    single = Resampling([str(i) for i in range(60)])
    independent = single.estimate(single.mean(values))
    assert grouped.high - grouped.low > 2 * (independent.high - independent.low)
    assert alone.low < alone.value < alone.high
    # The standard error of a mean of 60 with deviation sqrt(2/3), times 2 * 1.96.
    assert independent.high - independent.low == pytest.approx(2 * 1.96 * np.sqrt(2 / 3 / 60), rel=0.15)


def test_medians_and_infinite_figures():
    resampling = Resampling(["a", "b", "c"])
    study = np.array([0, 0, 1, 1, 2])
    assert resampling.median(np.array([5.0, 1.0, 3.0, 2.0, 4.0]), study)[0] == 3.0
    figures = resampling.mean(np.array([1.0, -np.inf, np.nan]))
    assert figures[0] == -np.inf
    assert not np.isnan(resampling.estimate(figures).low)


def test_rank_correlation_of_constants_and_few():
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 9.0])) == pytest.approx(1.0)
    assert rank_correlation(np.ones(3), np.array([2.0, 4.0, 9.0])) == 0.0
    assert np.isnan(rank_correlation(np.array([1.0, 2.0]), np.array([2.0, 4.0])))
    assert np.isnan(rank_correlation(np.arange(3.0), np.ones(3)))


def test_studies_of_several_kinds_are_refused():
    with pytest.raises(ValueError, match="one data set"):
        summarize([])
