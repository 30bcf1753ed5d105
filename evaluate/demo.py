"""The main job end to end, on real data, in under ten minutes on two CPU cores: `make demo`.

1. Log: Optuna tunes scikit-learn models on real data sets, into an Optuna database as any user would have.
2. Import: the database becomes a corpus.
3. Fine-tune: the shipped `nano` model reads the corpus, and synthetic studies so as not to forget, for two minutes.
4. Tune: the model tunes three model/data pairs that were kept out of the log, beside random search and Optuna's TPE,
   all with the same first trials.
5. Predict: log density of unseen trials on the kept-out pairs, beside a uniform density and a fitted Gaussian process.
6. Look: what the model has made of one of those studies, along each parameter and by its importance.

The kept-out pairs were named before the first run of this kind; those that served for development before
are part of the log (`docs/laboratory.md`).
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table
from vizier import pyvizier as vz

from optformer import plot
from optformer.configs import finetune
from optformer.data.problems.sklearn import SklearnExperimenter, task_names
from optformer.data.sources.importing import import_corpus
from optformer.data.teachers.optuna import SAMPLERS, OptunaDesigner, suggest_parameters
from optformer.evaluate.calibration import Predicted, predict_studies
from optformer.evaluate.optimization import DesignerFactory, Run, maximizes, random_trials, tune
from optformer.facade import OptFormer
from optformer.progress_bar import progress_bar
from optformer.serve.vizier import OptFormerDesigner
from optformer.train.loop import train

HELD_OUT = ("boosting@wine", "mlp@breast_cancer", "svr@diabetes")
"""Kept out of the log: tuned, and predicted."""
TOO_SLOW = ("boosting@digits", "forest@digits", "knn@digits", "logistic@digits")
LOGGED_TRIALS = 24
FIRST_TRIALS = 5
TUNED_TRIALS = 25
SUGGESTED = range(FIRST_TRIALS, TUNED_TRIALS)
SEEDS = 5
STEPS = 200
HISTORIES = (5, 10, 20)
PREDICTED_STUDIES = 4  # random-search studies of each kept-out pair


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo found, as written to `result.json`.

    Attributes:
      best: pair -> optimizer -> float64 [seed, trial], best objective so far.
      seconds: optimizer -> median seconds per suggestion.
      log_density: history length -> model name -> mean and median log density in nats.  A Gaussian process that is
        sure of a wrong answer ruins its mean; the median shows how good it is otherwise.
      minutes: stage -> wall time.
    """

    best: dict[str, dict[str, np.ndarray]]
    seconds: dict[str, float]
    log_density: dict[int, dict[str, tuple[float, float]]]
    minutes: dict[str, float]


def run_demo(out: Path, train_minutes: float, console: Console) -> DemoResult:
    """Runs all stages and writes the pictures and `result.json` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    minutes: dict[str, float] = {}

    def timed(stage: str, started: float) -> None:
        minutes[stage] = (time.perf_counter() - started) / 60

    started = time.perf_counter()
    console.rule("1. Log: Optuna tunes scikit-learn models")
    database = out / "tuning-log.db"
    log_studies(database, console)
    timed("log", started)

    started = time.perf_counter()
    console.rule("2. Import the log as a corpus")
    corpus = out / "corpus.jsonl"
    summary = import_corpus([database], corpus)
    console.print(summary)
    timed("import", started)

    started = time.perf_counter()
    console.rule(f"3. Fine-tune the shipped model on the log ({train_minutes:g} minutes)")
    config = dataclasses.replace(finetune.get_config(), corpus=str(corpus), steps=STEPS, max_minutes=train_minutes)
    workdir = out / "train"
    # A run of an earlier call, perhaps of an earlier release, is not to be continued.
    shutil.rmtree(workdir, ignore_errors=True)
    train(config, workdir)
    model = OptFormer.from_pretrained(workdir)
    timed("train", started)

    started = time.perf_counter()
    console.rule("4. Tune three pairs that the log does not have")
    runs = tune_held_out(model)
    timed("tune", started)

    started = time.perf_counter()
    console.rule("5. Predict trials of kept-out pairs")
    predicted = predict_held_out(model)
    timed("predict", started)

    started = time.perf_counter()
    console.rule("6. Look at one of these studies as the model sees it")
    looked_at = SklearnExperimenter(HELD_OUT[0]).problem_statement(), runs[HELD_OUT[0]]["OptFormer (EI)"][0].trials
    pictures = {"slices": plot.slices, "importance": plot.importance}
    for name, draw in pictures.items():
        draw(model, *looked_at).savefig(out / f"{name}.png", dpi=140)
        console.print(f"{name.capitalize():22} {out / name}.png")
    timed("look", started)

    result = DemoResult(
        best={
            pair: {name: np.stack([run.best for run in of_optimizer]) for name, of_optimizer in of_pair.items()}
            for pair, of_pair in runs.items()
        },
        seconds={
            name: float(
                np.median([run.seconds[t] for of_pair in runs.values() for run in of_pair[name] for t in SUGGESTED])
            )
            for name in runs[HELD_OUT[0]]
        },
        log_density={
            p.history: {
                name: (float(np.mean(values)), float(np.median(values)))
                for name, values in (
                    ("uniform", p.uniform),
                    ("gaussian_process", p.gaussian_process),
                    ("optformer", p.model),
                )
            }
            for p in predicted
        },
        minutes=minutes,
    )
    report(result, predicted, out, console)
    return result


def log_studies(database: Path, console: Console) -> None:
    """Tunes every pair that is not kept out, once with each sampler, into an Optuna SQLite database."""
    database.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    pairs = [task for task in task_names() if task not in HELD_OUT + TOO_SLOW]
    jobs = [(task, sampler, seed) for task in pairs for seed, sampler in enumerate(SAMPLERS)]
    # Evaluations are single-threaded and short: two processes, one thread each, while this one waits for the disk.
    context = multiprocessing.get_context("spawn")
    with (
        single_threaded(),
        concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool,
        progress_bar("studies") as advance,
    ):
        studies = pool.map(tune_with_optuna, *zip(*jobs, strict=True))
        for done, ((task, sampler, _), logged) in enumerate(zip(jobs, studies, strict=True), start=1):
            study = optuna.create_study(storage=storage, study_name=f"{task} {sampler}", direction=logged.direction)
            study.set_user_attr("optformer:algorithm", sampler)
            study.add_trials(logged.trials)
            advance(done, len(jobs))
    storage.remove_session()
    console.print(f"Log: {database}")


def tune_with_optuna(task: str, sampler: str, seed: int) -> optuna.Study:
    """One study in memory, as an Optuna user would have run it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    experimenter = SklearnExperimenter(task)
    problem = experimenter.problem_statement()
    study = optuna.create_study(
        sampler=SAMPLERS[sampler](seed), direction="maximize" if maximizes(problem) else "minimize"
    )
    study.optimize(logged_objective(experimenter, problem.search_space), n_trials=LOGGED_TRIALS)
    return study


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Child processes started inside use one BLAS and OpenMP thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def logged_objective(experimenter: SklearnExperimenter, space: vz.SearchSpace) -> Callable[[optuna.trial.Trial], float]:
    """The experimenter as the objective function that an Optuna user would have written."""

    def objective(trial: optuna.trial.Trial) -> float:
        return experimenter.score(suggest_parameters(trial, space))

    return objective


def tune_held_out(model: OptFormer) -> dict[str, dict[str, list[Run]]]:
    """Every optimizer on every kept-out pair, with the same first random trials for each seed."""

    def optformer(problem: vz.ProblemStatement, seed: int) -> OptFormerDesigner:
        return OptFormerDesigner(problem, model=model, seed=seed)

    optimizers: dict[str, DesignerFactory] = {
        "random search": lambda problem, seed: OptunaDesigner(problem, "random", seed=1000 + seed),
        "Optuna TPE": lambda problem, seed: OptunaDesigner(problem, "tpe", seed=1000 + seed),
        "OptFormer (EI)": optformer,
    }
    runs: dict[str, dict[str, list[Run]]] = {pair: {name: [] for name in optimizers} for pair in HELD_OUT}
    total = len(HELD_OUT) * len(optimizers) * SEEDS * (TUNED_TRIALS - FIRST_TRIALS)
    done = itertools.count(1)
    with progress_bar("trials") as advance:
        for pair, seed in itertools.product(HELD_OUT, range(SEEDS)):
            experimenter = SklearnExperimenter(pair)
            first = random_trials(experimenter, FIRST_TRIALS, seed=seed)
            for name, factory in optimizers.items():
                run = tune(experimenter, factory, first, TUNED_TRIALS, seed, lambda: advance(next(done), total))
                runs[pair][name].append(run)
    return runs


def predict_held_out(model: OptFormer) -> list[Predicted]:
    """Log densities on random-search studies of the kept-out pairs, per history length."""
    studies = []
    for task in HELD_OUT:
        experimenter = SklearnExperimenter(task)
        for seed in range(PREDICTED_STUDIES):
            trials = random_trials(experimenter, 2 * max(HISTORIES), seed=100 + seed)
            studies.append(vz.ProblemAndTrials(experimenter.problem_statement(), trials))
    total, done = len(studies) * len(HISTORIES), itertools.count(1)
    with progress_bar("studies") as advance:
        return [predict_studies(model, studies, n, after_study=lambda: advance(next(done), total)) for n in HISTORIES]


def report(result: DemoResult, predicted: list[Predicted], out: Path, console: Console) -> None:
    """Prints the tables; writes the pictures and `result.json`."""
    table = Table(title=f"Best objective after {TUNED_TRIALS} trials: mean of {SEEDS} seeds and its standard error")
    table.add_column("optimizer")
    for pair in result.best:
        table.add_column(f"{pair}\n{metric_of(pair)}", justify="right")
    table.add_column("s / suggestion", justify="right")
    for name, seconds in result.seconds.items():
        row = []
        for of_pair in result.best.values():
            last = of_pair[name][:, -1]
            row.append(f"{last.mean():.4f} ± {last.std(ddof=1) / np.sqrt(len(last)):.4f}")
        table.add_row(name, *row, f"{seconds:.3f}")
    console.print(table)

    table = Table(title=f"Log density of unseen trials on {len(HELD_OUT)} kept-out pairs: mean, median (nats)")
    for heading in ("trials seen", "uniform", "GP", "OptFormer", "in its 90 % interval"):
        table.add_column(heading, justify="right")
    for p in predicted:
        densities = result.log_density[p.history]
        table.add_row(
            str(p.history),
            *["{:.2f}, {:.2f}".format(*densities[name]) for name in ("uniform", "gaussian_process", "optformer")],
            f"{100 * p.coverage():.0f} %",
        )
    console.print(table)

    write_json(result, out / "result.json")
    draw_best_so_far(result, out / "best-so-far.png")
    draw_predicted(predicted[-1], out / "predicted.png")
    console.print(f"Best-so-far curves:    {out / 'best-so-far.png'}")
    console.print(f"Predicted, observed:   {out / 'predicted.png'}")
    console.print(f"Figures:               {out / 'result.json'}")
    console.print(f"Trained model:         {out / 'train'}")
    stages = ", ".join(f"{stage} {time:.1f}" for stage, time in result.minutes.items())
    console.print(f"Minutes:               {stages}, in all {sum(result.minutes.values()):.1f}")


def metric_of(pair: str) -> str:
    """`log_loss (less is better)`."""
    problem = SklearnExperimenter(pair).problem_statement()
    return f"{problem.metric_information.item().name} ({'more' if maximizes(problem) else 'less'} is better)"


def write_json(result: DemoResult, path: Path) -> None:
    """The figures, for machines."""
    best = {pair: {name: rows.tolist() for name, rows in of_pair.items()} for pair, of_pair in result.best.items()}
    plain = dataclasses.asdict(result) | {"best": best}
    path.write_text(json.dumps(plain, indent=1) + "\n")


def draw_best_so_far(result: DemoResult, path: Path) -> None:
    """Mean best objective so far by trial, with standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(result.best), figsize=(4.2 * len(result.best), 3.8), layout="constrained")
    for axes, (pair, of_pair) in zip(panels, result.best.items(), strict=True):
        for (name, best), color in zip(of_pair.items(), ("#888888", "#d08020", "#2060c0"), strict=True):
            trial = np.arange(1, best.shape[1] + 1)
            mean, error = best.mean(axis=0), best.std(axis=0, ddof=1) / np.sqrt(len(best))
            axes.plot(trial, mean, color=color, label=name)
            axes.fill_between(trial, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        axes.axvline(FIRST_TRIALS, color="black", linewidth=0.6, linestyle=":")
        axes.set(xlabel="trial", ylabel=f"best {metric_of(pair)} so far", title=pair)
        if "less" in metric_of(pair):
            axes.set_yscale("log")
            plot.label_log_axis(axes.yaxis, *axes.get_ylim())
    panels[0].legend(frameon=False)
    figure.suptitle(f"{SEEDS} seeds, mean and standard error; the first {FIRST_TRIALS} trials are shared")
    figure.savefig(path, dpi=140)
    plt.close(figure)


def draw_predicted(predicted: Predicted, path: Path) -> None:
    """Predicted medians with 90 % intervals against what came out, one panel per kept-out pair."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(HELD_OUT), figsize=(4.2 * len(HELD_OUT), 4.2), layout="constrained")
    for index, (axes, task) in enumerate(zip(panels, HELD_OUT, strict=True)):
        mask = predicted.study // PREDICTED_STUDIES == index
        observed, median = predicted.observed[mask], predicted.median[mask]
        low, high = predicted.low[mask], predicted.high[mask]
        span = np.ptp(observed) or 1.0
        limits = (observed.min() - 0.1 * span, observed.max() + 0.1 * span)
        axes.vlines(observed, np.clip(low, *limits), np.clip(high, *limits), color="#2060c0", alpha=0.3, linewidth=1)
        axes.plot(observed, np.clip(median, *limits), ".", color="#2060c0", markersize=4)
        axes.plot(limits, limits, color="black", linewidth=0.6)
        axes.set(xlabel="observed", ylabel="predicted", title=task, xlim=limits, ylim=limits)
    figure.suptitle(f"Unseen trials after {predicted.history} known ones: median and 90 % interval")
    figure.savefig(path, dpi=140)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="The main job end to end; see the module's docstring.")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for log, model, pictures")
    parser.add_argument("--train-minutes", type=float, default=3.0, help="limit of the fine-tuning")
    arguments = parser.parse_args()
    run_demo(arguments.out, arguments.train_minutes, Console())


if __name__ == "__main__":
    main()
