"""`optformer corpus info`, `optformer suggest` and `optformer doctor`: what they do and print.

Mistakes are raised as ValueError or OSError; the command line turns them into one line on stderr and exit code 2.
"""

import importlib.metadata
import importlib.util
import json
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vizier import pyvizier as vz

    from optformer.explanation import Explanation
    from optformer.facade import OptFormer

PACKAGES: Final = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "google-vizier", "sentencepiece", "optuna")
"""Whose versions `doctor` reports."""

BACKENDS: Final = {
    "plain loop": ((), ""),
    "Vizier designer": (("equinox", "chex"), "baselines"),
    "Vizier service": (("grpc_health", "prometheus_client", "sqlalchemy"), "serve"),
    "JSON over HTTP": (("fastapi", "uvicorn"), "serve"),
    "Optuna": (("optuna",), "optuna"),
    "Ray Tune": (("ray",), "ray"),
    "Syne Tune": (("syne_tune",), "syne-tune"),
}
"""Backend -> what must be importable, and the extra that brings it."""


def run_corpus_info(
    file: str,
    format: str | None = None,
    html: str | None = None,
    config: str = "nano_cpu",
    *,
    mapping: str | None = None,
    metric: str | None = None,
    goal: str | None = None,
) -> int:
    """Prints what a corpus holds, and writes a page with pictures.

    Args:
      file: corpus, any store that can be imported, or the dataset folder of a `study_corpus`.
      format, mapping, metric, goal: as in `optformer.data.sources.read`.
      html: the page; None: none.
      config: training config, whose shape the studies are held against.

    Returns:
      0.

    Raises:
      ValueError: the file, the config or the page's name cannot be used.
      ModuleNotFoundError: Matplotlib, which the page needs, is not installed.
    """
    if html is not None:
        # The name is asked for so that no corpus is overwritten by exchanged arguments.
        if Path(html).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--html {html}: the name of a page ends in .html")
        if importlib.util.find_spec("matplotlib") is None:
            raise ModuleNotFoundError("--html needs Matplotlib: pip install 'optformer[baselines]'")
    from optformer.data.sources import read

    if not Path(file).is_dir():
        # Says at once what is wrong with the file, before jax is loaded.
        read(file, format or "auto", mapping=mapping, metric=metric, goal=goal)

    from rich.console import Console

    from optformer.data.corpus_description import describe_corpus
    from optformer.evaluate.corpus_report import tables, write_page
    from optformer.progress_bar import progress_bar
    from optformer.train.config import load_config

    shape = load_config(config).shape
    with progress_bar("studies", rated="trials") as progress:
        description = describe_corpus(
            file, format or "auto", shape, progress, mapping=mapping, metric=metric, goal=goal
        )
    console = Console()
    if not console.is_terminal:
        # A file has room for the tables, whatever the width of the terminal it is looked at in later.
        console = Console(width=120)
    for table in tables(description):
        table.print(console)
    if html is not None:
        console.print(f"Page: {write_page(description, html)}", markup=False, highlight=False, soft_wrap=True)
    return 0


def run_suggest(
    study_path: str,
    checkpoint: str,
    count: int,
    as_json: bool,
    study_name: str | None = None,
    acquisition: str = "ei",
    algorithm: str | None = None,
    seed: int = 0,
    explained: bool = False,
) -> int:
    """Prints the next trials of a study on disk.

    Args:
      study_path: JSON lines, or an Optuna or Vizier database.
      checkpoint: shipped name or directory.
      count: at least 1.
      as_json: one JSON object instead of a table.
      study_name: which study, if the file holds several.
      acquisition, algorithm, seed: as `OptFormer.suggest`.
      explained: also says why, and which known trials are near.

    Returns:
      0.

    Raises:
      ValueError: whatever is wrong with the arguments, the file or the checkpoint.
    """
    if count < 1:
        raise ValueError(f"--count must be at least 1, not {count}")
    if seed < 0:
        raise ValueError(f"--seed must not be negative, not {seed}")
    # Cheap checks first: loading jax and a model takes seconds.
    from optformer.data.sources import read_study
    from optformer.data.sources import study_name as name_of

    study, left_out = read_study(study_path, study_name)
    if left_out:
        first = left_out[0]
        print(f"left out {len(left_out)} trial(s); the first: trial {first.trial}, {first.reason}", file=sys.stderr)

    from optformer.facade import METADATA_NAMESPACE, OptFormer
    from optformer.inference.acquisition import check_acquisition
    from optformer.serialization.space import StudySchema

    check_acquisition(acquisition)
    model = OptFormer.from_pretrained(checkpoint)
    suggestions = model.suggest(study.problem, study.trials, count, acquisition, algorithm, seed)
    schema = StudySchema(study.problem)
    parameters = [schema.decode(row) for row in schema.encode(suggestions)]
    reasons = [dict(suggestion.metadata.ns(METADATA_NAMESPACE).items()) for suggestion in suggestions]
    explanations: list[Explanation] = []
    if explained:
        from optformer.explanation import explain

        explanations = [explain(model, study.problem, study.trials, suggestion) for suggestion in suggestions]
    name = name_of(study) or schema.study
    if as_json:
        answer: dict[str, Any] = {
            "study": name,
            "trials": len(study.trials),
            "checkpoint": model.name,
            "suggestions": [{"parameters": p, "reason": r} for p, r in zip(parameters, reasons, strict=True)],
        }
        for told, explanation in zip(answer["suggestions"], explanations, strict=False):
            told["explanation"] = explanation.to_dict()
        print(json.dumps(answer, indent=1))
    else:
        _print_table(f"{name}: {len(study.trials)} trials, checkpoint {model.name}", parameters, reasons)
        for index, explanation in enumerate(explanations):
            print(f"\nsuggestion {index + 1}", *explanation.sentences(), sep="\n  ")
    return 0


def _print_table(title: str, parameters: list[dict[str, Any]], reasons: list[dict[str, str]]) -> None:
    """One column per suggestion, so that many parameters do not need a wide terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title))
    table.add_column("parameter")
    for index in range(len(parameters)):
        table.add_column(f"suggestion {index + 1}", justify="right")
    for key in dict.fromkeys(name for one in parameters for name in one):
        table.add_row(escape(key), *(escape(_shown(one[key])) if key in one else "-" for one in parameters))
    table.add_section()
    for key in dict.fromkeys(name for one in reasons for name in one if name != "checkpoint"):
        table.add_row(key.replace("_", " "), *(escape(one.get(key, "-")) for one in reasons), style="dim")
    Console().print(table)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def run_doctor(checkpoint: str | None = None) -> int:
    """Prints versions, backends, devices, the checkpoint and its card, and a test suggestion's time and memory.

    Args:
      checkpoint: shipped name or directory; None: the first that ships, else random weights of the size `nano`.

    Returns:
      0; problems with the checkpoint are raised.

    Raises:
      ValueError: the checkpoint cannot be used.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Python     {platform.python_version()} on {platform.platform()}")
    for package in ("optformer", *PACKAGES):
        console.print(f"{package:18} {_version(package)}")

    for backend, (modules, extra) in BACKENDS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        answer = f"no: pip install 'optformer[{extra}]'" if missing else "can be used"
        console.print(f"{backend:18} {answer}", markup=False)

    import jax

    console.print(f"devices    {', '.join(f'{d.platform}:{d.id} ({d.device_kind})' for d in jax.devices())}")

    from optformer.inference.compiled import cache_compilations
    from optformer.pretrained import pretrained_names

    shipped = pretrained_names()
    console.print(f"shipped checkpoints    {', '.join(shipped) or 'none'}")
    started = time.perf_counter()
    model = _examined(checkpoint or next(iter(shipped), None), console)
    console.print(f"loaded in {time.perf_counter() - started:.1f} s")
    cache_compilations()
    console.print(f"compiled functions are kept in {jax.config.jax_compilation_cache_dir or 'memory only'}")  # type: ignore[attr-defined]

    problem, trials = _test_study()
    for label in ("cold", "warm"):
        started = time.perf_counter()
        model.suggest(problem, trials, seed=1)
        console.print(f"test suggestion (10 parameters, 30 trials), {label}: {time.perf_counter() - started:.2f} s")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    console.print(f"memory at its highest: {peak / 2**30:.2f} GB")
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _examined(checkpoint: str | None, console: Any) -> "OptFormer":
    from optformer.facade import OptFormer
    from optformer.pretrained import checkpoint_path

    if checkpoint is None:
        from optformer.model import ModelConfig, build_model

        console.print("checkpoint: none named and none shipped; timing random weights of the size nano")
        return OptFormer(build_model(ModelConfig.nano()), {"name": "random nano"})
    path = checkpoint_path(checkpoint)
    model = OptFormer.from_pretrained(path)
    console.print(f"checkpoint {model.name} in {path}")
    for key, value in model.card.items():
        if key != "train_config":  # pages of it
            console.print(f"  {key}: {value}", markup=False)
    return model


def _test_study() -> "tuple[vz.ProblemStatement, list[vz.Trial]]":
    import numpy as np
    from vizier import pyvizier as vz

    problem = vz.ProblemStatement()
    names = [f"x{index}" for index in range(10)]
    for name in names:
        problem.search_space.root.add_float_param(name, 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("distance", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    trials = []
    for index, point in enumerate(np.random.default_rng(0).random((30, 10))):
        trial = vz.Trial(parameters=dict(zip(names, point.tolist(), strict=True)), id=index + 1)
        value = float(np.sum((point - 0.3) ** 2))
        trials.append(trial.complete(vz.Measurement(metrics={"distance": value})))
    return problem, trials
