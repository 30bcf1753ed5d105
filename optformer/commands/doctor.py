"""`optformer doctor`: shows versions, backends, devices, a checkpoint and the time of a suggestion; compiles ahead."""

import argparse
import importlib.metadata
import importlib.util
import platform
import sys
import time
from typing import TYPE_CHECKING, Final

from optformer.extras import install_command

if TYPE_CHECKING:
    from rich.console import Console
    from vizier import pyvizier as vz

    from optformer.facade import OptFormer

PACKAGES: Final = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "google-vizier", "sentencepiece", "optuna")
"""Packages whose versions `doctor` reports."""

USES: Final = {
    "plain loop": ((), ""),
    "Vizier designer": (("equinox", "chex"), "vizier"),
    "Vizier service": (("grpc_health", "prometheus_client", "sqlalchemy"), "serve"),
    "JSON over HTTP": (("fastapi", "uvicorn"), "serve"),
    "Optuna": (("optuna",), "optuna"),
    "Ray Tune": (("ray", "optuna"), "ray"),
    "Syne Tune": (("syne_tune",), "syne-tune"),
    "pictures": (("matplotlib",), "plot"),
    "training": (("optax", "orbax"), "train"),
}
"""Backend or other use -> the modules that it imports, and the extra that installs them."""

_PARAMETERS: Final = 8
_TRIALS: Final = (48, 120)
"""Trials of the synthetic studies for which functions are compiled: one for each size of history."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Prints versions, backends, devices, the checkpoint and its card, and the time and memory of a test suggestion.

    Also compiles what small studies need, so that later processes read it from disk.  Returns 0.

    Raises:
      ValueError: the checkpoint cannot be used.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Python     {platform.python_version()} on {platform.platform()}")
    for package in ("optformer", *PACKAGES):
        console.print(f"{package:18} {_version(package)}")

    for use, (modules, extra) in USES.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        answer = f"no: {install_command(extra)}" if missing else "can be used"
        console.print(f"{use:18} {answer}", markup=False)

    import jax

    console.print(f"devices    {', '.join(f'{d.platform}:{d.id} ({d.device_kind})' for d in jax.devices())}")

    from optformer.inference.compiled import cache_compilations
    from optformer.pretrained import pretrained_names

    console.print(f"shipped checkpoints    {', '.join(pretrained_names()) or 'none'}")
    started = time.perf_counter()
    model = _examined(arguments.checkpoint, console)
    console.print(f"loaded in {time.perf_counter() - started:.1f} s")
    cache_compilations()
    console.print(f"compiled functions are kept in {jax.config.jax_compilation_cache_dir or 'memory only'}")  # type: ignore[attr-defined]

    problem, trials = _test_study()
    for label in ("cold", "warm"):
        started = time.perf_counter()
        model.suggest(problem, trials, seed=1)
        console.print(f"test suggestion (10 parameters, 30 trials), {label}: {time.perf_counter() - started:.2f} s")
    console.print(f"compiling what studies of up to {_PARAMETERS} parameters need ...")
    seconds = sum(model.warm_up(_PARAMETERS, trials) for trials in _TRIALS)
    console.print(f"studies of up to {_PARAMETERS} parameters are ready: {seconds:.1f} s")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    console.print(f"memory at its highest: {peak / 2**30:.2f} GB")
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _examined(checkpoint: str, console: "Console") -> "OptFormer":
    from optformer.facade import OptFormer
    from optformer.pretrained import checkpoint_path

    path = checkpoint_path(checkpoint)
    model = OptFormer.from_pretrained(path)
    console.print(f"checkpoint {model.name} in {path}")
    for key, value in model.card.items():
        if key != "train_config":  # too long to print
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
