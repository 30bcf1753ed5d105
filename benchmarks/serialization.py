"""Time to serialize a study of 200 trials and 20 parameters on one core, once its schema exists.

    python benchmarks/serialization.py

The requirement is under 5 ms for parameters, objective and scaling.  Prints medians.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from vizier import pyvizier as vz

from optformer.serialization.batch import BatchShape, blank_batch, write_row
from optformer.serialization.metadata import metadata_segments
from optformer.serialization.objective import objective_tokens
from optformer.serialization.space import StudySchema
from optformer.serialization.study import EncodedStudy

TRIALS, REPEATS = 200, 50


def mixed_problem() -> vz.ProblemStatement:
    """20 parameters of all types."""
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    for index in range(8):
        root.add_float_param(f"rate_{index}", 1e-5, 1.0, scale_type=vz.ScaleType.LOG)
    for index in range(5):
        root.add_int_param(f"units_{index}", 1, 512)
    for index in range(4):
        root.add_discrete_param(f"batch_{index}", [8, 16, 32, 64])
    for index in range(3):
        root.add_categorical_param(f"kind_{index}", ["a", "b", "c"])
    problem.metric_information.append(vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    return problem


def random_trials(schema: StudySchema) -> list[vz.Trial]:
    rng = np.random.default_rng(0)
    trials = []
    for uid in range(1, TRIALS + 1):
        trial = vz.Trial(id=uid, parameters=schema.decode_parameters(rng.integers(schema.slot_levels)))
        trial.complete(vz.Measurement(metrics={"accuracy": rng.normal()}))
        trials.append(trial)
    return trials


def report(name: str, function: Callable[[], object]) -> None:
    milliseconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    print(f"{name:44s} {statistics.median(milliseconds):8.3f} ms   (fastest {min(milliseconds):.3f})")


def main() -> None:
    problem = mixed_problem()
    schema = StudySchema(problem)
    trials = random_trials(schema)
    study = EncodedStudy(problem, trials)
    known, batch = np.ones(TRIALS, bool), blank_batch(1, BatchShape(TRIALS, len(schema), 1024))
    row = study.row(study.x_tokens, objective_tokens(study.values[:, 0], study.statuses, known).tokens)
    report("schema of the problem", lambda: StudySchema(problem))
    report("parameters of 200 trials x 20", lambda: schema.encode(trials))
    report("objectives", lambda: schema.objectives(trials))
    report("metadata text", lambda: metadata_segments(schema))
    report("study: schema, parameters, objectives", lambda: EncodedStudy(problem, trials))
    report("objective tokens", lambda: objective_tokens(study.values[:, 0], study.statuses, known))
    report("one row of a batch", lambda: write_row(batch, 0, row))
    report("decode one trial", lambda: schema.decode_parameters(study.x_tokens[0]))


if __name__ == "__main__":
    main()
