"""What the model predicts for trials that have not been run: value, interval, probability of a new best.

    python read_a_prediction.py [TRIALS]

Saves a picture, `prediction.png`, in the current folder.
"""

import sys

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import cross_val_score
from vizier import pyvizier as vz

from optformer import OptFormer, plot

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 12

problem = vz.ProblemStatement()
problem.search_space.root.add_float_param("learning_rate", 1e-3, 1.0, scale_type=vz.ScaleType.LOG)
problem.search_space.root.add_int_param("max_depth", 1, 8)
problem.metric_information.append(vz.MetricInformation("error", goal=vz.ObjectiveMetricGoal.MINIMIZE))

features, labels = load_diabetes(return_X_y=True)


def error(**parameters) -> float:
    trees = GradientBoostingRegressor(n_estimators=50, random_state=0, **parameters)
    return -cross_val_score(trees, features, labels, cv=3, scoring="neg_mean_absolute_error").mean()


# The known trials.  Here they are random; trials of any optimizer will do.
rng = np.random.default_rng(0)
trials = []
for number in range(1, TRIALS + 1):
    chosen = {"learning_rate": float(10 ** rng.uniform(-3, 0)), "max_depth": int(rng.integers(1, 9))}
    trial = vz.Trial(id=number, parameters=chosen)
    trial.complete(vz.Measurement(metrics={"error": error(**chosen)}))
    trials.append(trial)
best = min(trial.final_measurement.metrics["error"].value for trial in trials)
print(f"best error of {TRIALS} known trials: {best:.1f}")

# Three trials that one might run next.  A prediction has one number for each.
candidates = [{"learning_rate": rate, "max_depth": depth} for rate, depth in ((0.1, 2), (0.1, 6), (0.8, 6))]
model = OptFormer.from_pretrained("nano")
prediction = model.predict(problem, trials, candidates)
low, median, high = prediction.quantile([0.05, 0.5, 0.95])
better = prediction.probability_of_improvement(best)  # less is better here: the problem says so
for index, each in enumerate(candidates):
    print(f"{each}: in truth {error(**each):.1f}")
    print(f"  expected {median[index]:.1f}, with 90 % between {low[index]:.1f} and {high[index]:.1f};", end=" ")
    print(f"better than the best with {better[index]:.0%}")

# The same along each parameter, starting from the best trial.  Dots are trials; bands hold 50 % and 90 %.
plot.slices(model, problem, trials).savefig("prediction.png")
print("prediction.png shows the same along each parameter")
