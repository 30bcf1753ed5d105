"""Studies of a conditional space, with two objectives and trials of every status."""

import numpy as np
from vizier import pyvizier as vz


def study(name: str, trials: int = 10, repo: str | None = None, seed: int = 0, extra: int = 0) -> vz.ProblemAndTrials:
    """A conditional space of four slots, two objectives, every status."""
    rng = np.random.default_rng(seed)
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    model = root.add_categorical_param("model", ["linear", "mlp"])
    model.select_values(["mlp"]).add_int_param("width", 1, 64)
    root.add_discrete_param("batch", [16, 32, 64])
    root.add_float_param("seed", 3.0, 3.0)
    for index in range(extra):
        root.add_float_param(f"x{index}", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metric_information.append(vz.MetricInformation("speed", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    facts = problem.metadata.ns("optformer")
    facts["study_id"], facts["title"], facts["algorithm"] = name, f"tuning of {name}", "random_search"
    if repo:
        facts["repo"] = repo
    logged = []
    for index in range(trials):
        mlp = rng.random() < 0.5
        parameters = {"lr": float(10 ** rng.uniform(-4, 0)), "model": "mlp" if mlp else "linear", "batch": 32.0}
        parameters |= {"width": int(rng.integers(1, 65))} if mlp else {}
        parameters |= {f"x{number}": float(rng.random()) for number in range(extra)}
        trial = vz.Trial(id=index + 1, parameters=parameters)
        if index % 5 == 3:
            trial.complete(vz.Measurement(), infeasibility_reason="diverged")
        elif index % 7 != 6:
            trial.complete(vz.Measurement({"loss": float(rng.normal()), "speed": float(rng.normal())}))
        logged.append(trial)
    return vz.ProblemAndTrials(problem=problem, trials=logged)
