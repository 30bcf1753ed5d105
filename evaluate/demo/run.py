"""The stages of the demo, one after the other."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console

from optformer import cli, plot
from optformer.configs import finetune
from optformer.data.problems.sklearn import SklearnExperimenter
from optformer.data.sources.importing import import_corpus
from optformer.evaluate.calibration import Predicted
from optformer.evaluate.demo import pages
from optformer.evaluate.demo.comparisons import OURS, Comparison, compare, comparisons, study_name
from optformer.evaluate.demo.held_out import FINE_TUNED, FIRST_TRIALS, predict_held_out, tune_held_out
from optformer.evaluate.demo.log import LOGGED, log_studies
from optformer.evaluate.demo.objectives import HELD_OUT
from optformer.evaluate.optimization import Run
from optformer.evaluate.report import write_json
from optformer.facade import OptFormer
from optformer.train.loop import train


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the demo; the tests use smaller ones.

    Attributes:
      logged: pairs of a model and a data set in the log.
      logged_trials: number of trials of each study of the log.
      steps: largest number of steps of the fine-tuning.
      seeds: number of runs of each optimizer.
      tuned_trials: number of trials on each held-out pair.
      histories: numbers of known trials from which others are predicted.
      predicted: number of predicted studies of each held-out pair.
      whole, branched, after_earlier: budgets of `comparisons`.
    """

    logged: tuple[str, ...] = LOGGED
    logged_trials: int = 24
    steps: int = 200
    seeds: int = 5
    tuned_trials: int = 25
    histories: tuple[int, ...] = (5, 10, 20)
    predicted: int = 4
    whole: int = 15
    branched: int = 25
    after_earlier: int = 10


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """Results of the demo, as written to `result.json`.

    Attributes:
      best: held-out pair -> optimizer -> float64 [seed, trial], best objective so far.
      seconds: optimizer -> median seconds per suggestion.
      log_density: history length -> model name -> mean and median log density in nats.  The mean of a
        Gaussian process is dominated by a few overconfident wrong predictions; the median is not.
      compared: comparison -> engine -> float64 [seed, epoch or trial], best log loss so far.
      minutes: stage -> wall time.
    """

    best: dict[str, dict[str, np.ndarray]]
    seconds: dict[str, float]
    log_density: dict[int, dict[str, tuple[float, float]]]
    compared: dict[str, dict[str, np.ndarray]]
    minutes: dict[str, float]


def run_demo(out: Path, train_minutes: float, console: Console, sizes: Sizes = Sizes()) -> DemoResult:
    """Runs all stages and writes log, model, pictures, `result.json` and the page into `out`.

    Raises:
      RuntimeError: the page could not be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    minutes: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(name: str, title: str) -> Iterator[None]:
        console.rule(f"{len(minutes) + 1}. {title}")
        started = time.perf_counter()
        yield
        minutes[name] = (time.perf_counter() - started) / 60

    log = out / "tuning-log.db"
    with stage("log", "Log: Optuna tunes scikit-learn models"):
        log_studies(log, sizes.logged, sizes.logged_trials)
        console.print(f"Log: {log}")

    with stage("import", "Import the log as a corpus"):
        corpus = out / "corpus.jsonl"
        console.print(import_corpus([log], corpus))

    with stage("train", f"Fine-tune the shipped model on the log ({train_minutes:g} minutes)"):
        config = dataclasses.replace(
            finetune.get_config(), corpus=str(corpus), steps=sizes.steps, max_minutes=train_minutes
        )
        # Do not resume the run of an earlier call, perhaps by an earlier release.
        shutil.rmtree(out / "train", ignore_errors=True)
        train(config, out / "train")
        shipped, model = OptFormer.from_pretrained("nano"), OptFormer.from_pretrained(out / "train")

    with stage("tune", "Tune three pairs that the log does not have"):
        runs = tune_held_out(shipped, model, sizes.tuned_trials, sizes.seeds)

    with stage("predict", "Predict trials of kept-out pairs"):
        predicted = predict_held_out(model, sizes.histories, sizes.predicted)
        by_shipped = predict_held_out(shipped, sizes.histories, sizes.predicted)

    with stage("look", "Look at one of these studies as the model sees it"):
        problem = SklearnExperimenter(HELD_OUT[0]).problem_statement()
        trials = runs[HELD_OUT[0]][FINE_TUNED][0].trials
        for name, draw in {"slices": plot.slices, "importance": plot.importance}.items():
            draw(model, problem, trials).savefig(out / f"{name}.png", dpi=140)

    with stage("compare", "The shipped model in Optuna, beside TPE: a pruner, branches, earlier studies"):
        chosen = comparisons(log, sizes.whole, sizes.branched, sizes.after_earlier)
        compared = compare(chosen, sizes.seeds, log, out / "studies.db")

    with stage("report", "The page of one of these studies"):
        page = write_page(out, study_name(chosen[0], OURS))

    result = DemoResult(
        best={
            pair: {name: np.stack([run.best for run in of_optimizer]) for name, of_optimizer in of_pair.items()}
            for pair, of_pair in runs.items()
        },
        seconds={name: seconds_per_suggestion(runs, name) for name in runs[HELD_OUT[0]]},
        log_density={
            each.history: {
                name: (float(np.mean(values)), float(np.median(values)))
                for name, values in (
                    ("uniform", each.uniform),
                    ("gaussian_process", each.gaussian_process),
                    ("shipped", before.model),
                    ("fine_tuned", each.model),
                )
            }
            for before, each in zip(by_shipped, predicted, strict=True)
        },
        compared=compared,
        minutes=minutes,
    )
    show(result, predicted, sizes.predicted, chosen, out, page, console)
    return result


def seconds_per_suggestion(runs: dict[str, dict[str, list[Run]]], optimizer: str) -> float:
    """The median over all pairs, seeds and suggested trials."""
    return float(np.median([run.seconds[FIRST_TRIALS:] for of_pair in runs.values() for run in of_pair[optimizer]]))


def write_page(out: Path, study: str) -> Path:
    """Makes the page of a study of `studies.db` with the command `optformer report`.

    Raises:
      RuntimeError: the command failed; its message is on stderr.
    """
    page = out / "report.html"
    if cli.main(["report", str(out / "studies.db"), "--study", study, "--html", str(page)]):
        raise RuntimeError(f"study {study!r}: `optformer report` could not make its page; its message is above")
    return page


def show(
    result: DemoResult,
    predicted: Sequence[Predicted],
    per_pair: int,
    chosen: Sequence[Comparison],
    out: Path,
    page: Path,
    console: Console,
) -> None:
    """Prints the tables, writes the pictures and `result.json`, and prints where all files are.

    Args:
      result: all figures.
      predicted: predictions of the fine-tuned model on the held-out pairs, by length of the history.
      per_pair: number of predicted studies of each pair.
      chosen: the comparisons.
      out: the folder of all files.
      page: page of one of the studies.
      console: console for the output.
    """
    console.rule("What came out")
    pages.print_tuned(result.best, result.seconds, console)
    pages.print_predicted(predicted, result.log_density, console)
    pages.print_compared(chosen, result.compared, console)
    pages.draw_tuned(result.best, out / "best-so-far.png")
    pages.draw_predicted(predicted[-1], per_pair, out / "predicted.png")
    pages.draw_compared(chosen, result.compared, out / "compared.png")
    write_json(out / "result.json", result)
    stages = ", ".join(f"{stage} {time:.1f}" for stage, time in result.minutes.items())
    for what, where in {
        "Kept-out pairs tuned": out / "best-so-far.png",
        "Predicted, observed": out / "predicted.png",
        "Pruner, branches, ...": out / "compared.png",
        "One study, by slices": out / "slices.png",
        "Importance": out / "importance.png",
        "Figures": out / "result.json",
        "Trained model": out / "train",
        "Studies of step 7": f"{out / 'studies.db'} (`optformer studies` lists them)",
        "Minutes": f"{stages}, in all {sum(result.minutes.values()):.1f}",
    }.items():
        console.print(f"{what + ':':22} {where}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        "\nThe page shows the pruned study of the first seed. Look at the hollow triangles of its first picture, which "
        "are pruned trials; at what the model predicts along each parameter, with intervals; at how well it predicts "
        "each trial from the others; and at the suggestions, which say why.",
        soft_wrap=True,
    )
    console.print(f"Page: {page}", markup=False, highlight=False, soft_wrap=True)
