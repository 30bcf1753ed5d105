"""Time and memory of a suggestion, beside Vizier's GP-UCB-PE and Optuna's TPE and GP.

    python benchmarks/suggest.py [--engines nano small tpe gp gp_ucb_pe naive CHECKPOINT] [--out DIR]
    python benchmarks/suggest.py --growth --out docs/images      # against trials and parameters, with a plot
    python benchmarks/suggest.py --service                       # suggestions/s of the service, 32 studies at once

Each engine runs in a process of its own, one after the other: 10 parameters, 100 finished trials, then suggestions,
each of which is finished before the next is asked for.  `first` is from the start of the process to its first
suggestion, with whatever compiled functions its library has kept on disk; `warm` is the median of the later ones.
`small` has random weights, which cost the same time.  `naive` is `nano` as the 2022 system would run it: the whole
history once more for every candidate; it is timed on 64 candidates and reckoned up to those of a real suggestion.
Optuna's GP needs torch; Vizier's needs jaxopt 0.8.5, tfp-nightly 0.26.0.dev20261027 and typeguard 2.13.3.  Run on an
idle machine.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from vizier import pyvizier as vz

PARAMETERS, TRIALS = 10, 100
ENGINES = ("nano", "small", "naive", "tpe", "gp", "gp_ucb_pe")
LABELS = {
    "nano": "OptFormer nano",
    "small": "OptFormer small",
    "naive": "nano, history encoded per candidate",
    "tpe": "Optuna TPE",
    "gp": "Optuna GP",
    "gp_ucb_pe": "Vizier GP-UCB-PE",
}
SLOWEST = 15.0  # seconds: where growth stops being followed


def problem(parameters: int) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    for index in range(parameters):
        statement.search_space.root.add_float_param(f"x{index}", 0.0, 1.0)
    statement.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return statement


def value(point: np.ndarray) -> float:
    """A valley with ripples."""
    return float(np.sum((point - 0.3) ** 2) + 0.05 * np.sum(np.cos(9.0 * point)))


def finished(parameters: int, trials: int) -> list[vz.Trial]:
    result = []
    for index, point in enumerate(np.random.default_rng(0).random((trials, parameters))):
        trial = vz.Trial(id=index + 1, parameters={f"x{k}": float(x) for k, x in enumerate(point)})
        result.append(trial.complete(vz.Measurement(metrics={"y": value(point)})))
    return result


Ask = Callable[[], None]
"""Suggests a trial and finishes it."""


def loop(suggest: Callable[[list[vz.Trial]], vz.TrialSuggestion], trials: list[vz.Trial]) -> Ask:
    def ask() -> None:
        suggestion = suggest(trials)
        point = np.array([suggestion.parameters.get_value(f"x{k}") for k in range(len(suggestion.parameters))])
        trial = suggestion.to_trial(len(trials) + 1)
        trials.append(trial.complete(vz.Measurement(metrics={"y": value(point)})))

    return ask


def optformer(name: str, parameters: int, trials: int) -> Ask:
    from optformer import OptFormer
    from optformer.model import ModelConfig, build_model

    if name != "small":
        model = OptFormer.from_pretrained(name)
    else:  # Random weights would rightly not be trusted, and then every other suggestion would cost nothing.
        model = OptFormer(build_model(getattr(ModelConfig, name)()), {"name": name}).with_settings(check_trust=False)
    return loop(lambda known: model.suggest(problem(parameters), known)[0], finished(parameters, trials))


def naive(parameters: int, trials: int) -> Ask:
    """64 candidates, each as one more trial of a history that is encoded anew."""
    import jax
    from flax import nnx

    from optformer.inference.history import Objective, history_batch
    from optformer.model import load_checkpoint
    from optformer.pretrained import checkpoint_path
    from optformer.serialization.study import EncodedStudy

    model, _ = load_checkpoint(checkpoint_path("nano"))
    graph, weights = nnx.split(model)
    study = EncodedStudy(problem(parameters), finished(parameters, trials))
    focus = Objective.of(study, study.values[:, 0], 0, 48)
    shown = focus.shown
    rows = np.concatenate([study.x_tokens[shown], study.x_tokens[:1]])
    batch = history_batch(study.row(rows, np.append(focus.y_tokens[shown], 0), order_free=True))
    batch = batch._replace(prefix_length=np.array([len(shown)], np.int32))
    many = type(batch)(*(np.repeat(field, 8, axis=0) for field in batch))
    forward = jax.jit(lambda weights, batch: nnx.merge(graph, weights)(batch).function)

    def ask() -> None:
        for _ in range(8):
            np.asarray(forward(weights, many))

    return ask


def tpe_or_gp(name: str, parameters: int, trials: int) -> Ask:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = (
        optuna.samplers.TPESampler(seed=0, multivariate=True) if name == "tpe" else optuna.samplers.GPSampler(seed=0)
    )
    study = optuna.create_study(sampler=sampler)
    space = {f"x{k}": optuna.distributions.FloatDistribution(0.0, 1.0) for k in range(parameters)}
    for trial in finished(parameters, trials):
        params = {name: float(trial.parameters.get_value(name)) for name in space}
        y = trial.final_measurement_or_die.metrics["y"].value
        study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(space), value=y))

    def ask() -> None:
        trial = study.ask(dict(space))
        study.tell(trial, value(np.array([trial.params[name] for name in space])))

    return ask


def gp_ucb_pe(parameters: int, trials: int) -> Ask:
    import jax
    from vizier import algorithms as vza
    from vizier._src.algorithms.designers.gp_ucb_pe import VizierGPUCBPEBandit
    from vizier.pyvizier.converters import padding

    # In 64 bits, without which it fails within ten trials, and padded, or it would compile for every trial.
    jax.config.update("jax_enable_x64", True)
    schedule = padding.PaddingSchedule(num_trials=padding.PaddingType.POWERS_OF_2)
    designer = VizierGPUCBPEBandit(problem(parameters), padding_schedule=schedule)
    told = 0

    def suggest(known: list[vz.Trial]) -> vz.TrialSuggestion:
        nonlocal told
        designer.update(vza.CompletedTrials(known[told:]), vza.ActiveTrials())
        told = len(known)
        return designer.suggest(1)[0]

    return loop(suggest, finished(parameters, trials))


MAKERS: dict[str, Callable[[int, int], Ask]] = {
    "nano": functools.partial(optformer, "nano"),
    "small": functools.partial(optformer, "small"),
    "naive": naive,
    "tpe": functools.partial(tpe_or_gp, "tpe"),
    "gp": functools.partial(tpe_or_gp, "gp"),
    "gp_ucb_pe": gp_ucb_pe,
}


def measure(engine: str, parameters: int, trials: int, seconds: float, started: float) -> dict[str, Any]:
    """In this process: the first suggestion since `started` (Unix time), the later ones, and the peak of memory."""
    ask = MAKERS.get(engine, functools.partial(optformer, engine))(parameters, trials)
    ask()
    first = time.time() - started
    ask()  # the first one after a compilation may still allocate
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (time.perf_counter() < end and len(times) < 200) or len(times) < 3:
        begin = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "engine": engine,
        "parameters": parameters,
        "trials": trials,
        "first": first,
        "times": times,
        "peak_gb": peak,
    }


def in_a_process(engine: str, parameters: int, trials: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", engine, str(parameters), str(trials), str(seconds)]
    done = subprocess.run([*command, str(time.time())], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{engine}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def candidates_of_a_suggestion() -> int:
    from optformer.inference.settings import SearchSettings

    settings = SearchSettings()
    return settings.first_candidates + settings.rounds * settings.round_candidates


def compare(engines: list[str], seconds: float) -> list[dict[str, Any]]:
    results = []
    print(f"{PARAMETERS} parameters, {TRIALS} trials, {os.cpu_count()} cores; seconds")
    print("| engine | warm, median | range of the middle half | process to first | memory, GB |\n|---|---|---|---|---|")
    for engine in engines:
        result = in_a_process(engine, PARAMETERS, TRIALS, seconds)
        times = result["times"]
        if engine == "naive":
            times = [each * candidates_of_a_suggestion() / 64 for each in times]
        low, middle, high = statistics.quantiles(times, n=4)
        result["warm"] = middle
        results.append(result)
        print(
            f"| {LABELS.get(engine, engine)} | {middle:.3f} | {low:.3f} to {high:.3f} | {result['first']:.1f} | "
            f"{result['peak_gb']:.2f} |",
            flush=True,
        )
    return results


def growth(engines: list[str], seconds: float) -> list[dict[str, Any]]:
    """Along trials at 10 parameters, and along parameters at 100 trials."""
    results = []
    lines = [[(PARAMETERS, trials) for trials in (10, 30, 100, 300, 1000)]]
    lines.append([(parameters, TRIALS) for parameters in (1, 2, 5, 10, 20, 50)])
    for engine in engines:
        for line in lines:
            for parameters, trials in line:
                result = in_a_process(engine, parameters, trials, seconds)
                result["warm"] = statistics.median(result["times"])
                results.append(result)
                print(
                    f"{LABELS.get(engine, engine)}: {parameters} parameters, {trials} trials: {result['warm']:.3f} s",
                    flush=True,
                )
                if result["warm"] > SLOWEST:
                    break
    return results


def draw(results: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, axis, fixed in zip(panels, ("trials", "parameters"), ("parameters", "trials"), strict=True):
        at = {"parameters": PARAMETERS, "trials": TRIALS}[fixed]
        for engine in dict.fromkeys(result["engine"] for result in results):
            line = sorted((r[axis], r["warm"]) for r in results if r["engine"] == engine and r[fixed] == at)
            line = sorted(dict(line).items())
            ours = engine in ("nano", "small")
            panel.plot(*zip(*line, strict=True), marker="o", lw=2.5 if ours else 1.2, label=LABELS.get(engine, engine))
        panel.set(xscale="log", yscale="log", xlabel=f"{axis} ({at} {fixed})")
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("seconds per suggestion, warm")
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def service(seconds: float, studies: int = 32) -> None:
    """Suggestions/s of the gRPC service, each study with a client that asks, completes and asks again."""
    import threading

    from vizier.service import clients
    from vizier.service import pyvizier as svz

    from optformer import OptFormer
    from optformer.serve.client import Service
    from optformer.serve.grpc_server import Settings, VizierServer
    from optformer.serve.vizier import ALGORITHM, OptFormerPolicyFactory

    clients.environment_variables.new_suggestion_polling_secs = 0.01
    model = OptFormer.from_pretrained("nano")
    print(f"{studies} studies at once, {PARAMETERS} parameters, 20 trials to begin with")
    model.warm_up(PARAMETERS, 20)
    server = VizierServer(OptFormerPolicyFactory(model), "sqlite:///:memory:", Settings(port=0, workers=2 * studies))
    made, end = [0] * studies, [float("inf")]
    ready = threading.Barrier(studies + 1)

    def tune(number: int) -> None:
        with Service(server.endpoint) as caller:
            config = svz.StudyConfig.from_problem(problem(PARAMETERS))
            config.algorithm = ALGORITHM
            study = caller.study(config, owner="benchmark", study_id=f"study {number}")
            for trial in finished(PARAMETERS, 20):
                study.add_trial(trial)
            for trial in study.suggest(count=1, client_id="warm up"):
                trial.complete(vz.Measurement(metrics={"y": 1.0}))
            ready.wait()
            while time.perf_counter() < end[0]:
                (trial,) = study.suggest(count=1, client_id="worker")
                values = dict(trial.parameters)
                point = np.array([values[f"x{k}"] for k in range(PARAMETERS)])
                trial.complete(vz.Measurement(metrics={"y": value(point)}))
                made[number] += 1

    threads = [threading.Thread(target=tune, args=(number,)) for number in range(studies)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    end[0] = begin + seconds
    for thread in threads:
        thread.join()
    print(f"{sum(made) / (time.perf_counter() - begin):.1f} suggestions/s")
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), help="names, or checkpoints")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measurement per engine; default: %(default)s")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--service", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for suggest.json, and suggest.png of --growth")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        engine, parameters, trials, seconds, started = arguments.measure
        print(json.dumps(measure(engine, int(parameters), int(trials), float(seconds), float(started))))
        return
    if arguments.service:
        service(arguments.seconds)
        return
    results = (growth if arguments.growth else compare)(arguments.engines, arguments.seconds)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        name = "suggest_growth" if arguments.growth else "suggest"
        (arguments.out / f"{name}.json").write_text(json.dumps(results, indent=1))
        if arguments.growth:
            draw(results, arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
