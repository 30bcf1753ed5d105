"""The compared optimizers by name; they are built in the process that runs them.

`optformer` and its variants are the checkpoint under evaluation.  Users add their own as `NAME=module:factory`, where
`factory(problem, seed)` makes a Vizier `Designer`.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from vizier import algorithms as vza
from vizier import pyvizier as vz

from optformer.data.teachers.registry import TEACHERS, make_teacher
from optformer.evaluate.optimization.tuning import DesignerFactory

CHECKPOINT: Final = {
    "optformer": "ei",
    "optformer_pi": "pi",
    "optformer_ucb": "ucb",
    "optformer_thompson": "thompson",
    "optformer_policy": "policy",
}
"""Name -> acquisition."""

_VIZIER_GP: Final = ("jaxopt", "tensorflow_probability", "typeguard")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An optimizer of another library.

    Attributes:
      make: problem, seed -> designer.
      conditional: whether it supports conditional search spaces.
      needs: required modules beyond the extras `baselines` and `optuna`.
      slow: whether a suggestion takes seconds.
    """

    make: DesignerFactory
    conditional: bool
    needs: tuple[str, ...] = ()
    slow: bool = False


def _quasi_random(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    import warnings

    import optuna

    from optformer.data.teachers.optuna import OptunaDesigner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
    return OptunaDesigner(problem, sampler)


def _gp_ucb_pe(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    import jax
    from vizier._src.algorithms.designers.gp_ucb_pe import VizierGPUCBPEBandit
    from vizier.pyvizier.converters import padding

    from optformer.data.teachers.gp_bandit import InDoublePrecision

    # Padded, because otherwise it would compile again for every trial.
    schedule = padding.PaddingSchedule(num_trials=padding.PaddingType.POWERS_OF_2)
    return InDoublePrecision(
        lambda: VizierGPUCBPEBandit(problem, rng=jax.random.PRNGKey(seed), padding_schedule=schedule)
    )


def _teacher(name: str, slow: bool = False) -> Baseline:
    teacher = TEACHERS[name]
    return Baseline(lambda p, seed: make_teacher(name, p, seed), teacher.conditional, teacher.needs, slow)


BASELINES: Final[dict[str, Baseline]] = {
    "random_search": _teacher("random_search"),
    "quasi_random": Baseline(_quasi_random, conditional=True),
    "tpe": _teacher("tpe"),
    "cma_es": _teacher("cma_es"),
    "gp": _teacher("gp"),
    "grid_search": _teacher("grid_search"),
    "shuffled_grid_search": _teacher("shuffled_grid_search"),
    "regularized_evolution": _teacher("regularized_evolution"),
    "hill_climb": _teacher("hill_climb"),
    "eagle_strategy": _teacher("eagle_strategy"),
    "gp_ucb": _teacher("gp_ucb", slow=True),
    "gp_ucb_pe": Baseline(_gp_ucb_pe, conditional=False, needs=_VIZIER_GP, slow=True),
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Description of an optimizer, from which a process builds the designer.

    Attributes:
      name: name in tables.
      checkpoint: shipped name or directory, for optimizers that use a checkpoint.
      fingerprint: digest of the checkpoint, so that a resumed evaluation does not mix two checkpoints.
      algorithm: the optimizer that the checkpoint's policy imitates, by its name in the corpus.
      factory: `module:factory` of a user's optimizer.
    """

    name: str
    checkpoint: str | None = None
    fingerprint: str | None = None
    algorithm: str | None = None
    factory: str | None = None

    @property
    def conditional(self) -> bool:
        """Whether it supports conditional search spaces; a user's factory may have an attribute `conditional`."""
        if self.factory is not None:
            return bool(getattr(load_factory(self.factory), "conditional", True))
        return self.checkpoint is not None or BASELINES[self.name].conditional

    def build(self) -> DesignerFactory:
        """Problem, seed -> designer."""
        if self.factory is not None:
            return load_factory(self.factory)
        if self.checkpoint is not None:
            from optformer.facade import load
            from optformer.serve.vizier import OptFormerDesigner

            model, algorithm = load(self.checkpoint), self.algorithm
            acquisition = "policy" if algorithm is not None else CHECKPOINT[self.name]
            return lambda problem, seed: OptFormerDesigner(
                problem, model, seed=seed, acquisition=acquisition, algorithm=algorithm
            )
        return BASELINES[self.name].make


def load_factory(path: str) -> Callable[[vz.ProblemStatement, int], vza.Designer]:
    """The function that `module:factory` names.

    Raises:
      ValueError: there is no such module, or it has no callable of this name.
    """
    module_name, _, name = path.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module_name), name or "?", None)
    except ImportError as error:
        raise ValueError(f"optimizer {path!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"optimizer {path!r}: no function {name!r} in {module_name}; give it as NAME=module:factory")
    return found


def fingerprint(checkpoint: Path) -> str:
    """A digest of the weights, the sizes, and the part of the card that affects the search.

    Raises:
      OSError, ValueError, KeyError: the directory is not a checkpoint.
    """
    from optformer.model.checkpoint import CONFIG_FILE, WEIGHTS_FOLDER

    content = json.loads((checkpoint / CONFIG_FILE).read_text(encoding="utf-8"))
    config = content["card"].get("train_config") or {}
    blind = {name: (config.get(name) or {}).get("blind_rate") for name in ("prior", "augmentation")}
    shown = [(config.get("shape") or {}).get("trials"), content["card"].get("max_trials")]
    digest = hashlib.sha256(json.dumps([content["model"], blind, shown], sort_keys=True).encode())
    for path in sorted((checkpoint / WEIGHTS_FOLDER).iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def missing(name: str) -> list[str]:
    """Required modules of a baseline that are not installed."""
    return [module for module in BASELINES[name].needs if importlib.util.find_spec(module) is None]


def choose(names: Sequence[str], checkpoint: str, fingerprint: str) -> list[Optimizer]:
    """Optimizers by name.

    Args:
      names: names in `CHECKPOINT` and `BASELINES`, or `NAME=module:factory`.
      checkpoint: the checkpoint that optimizers of `CHECKPOINT` use.
      fingerprint: digest of the checkpoint.

    Raises:
      ValueError: an unknown or repeated name, a missing factory, or a baseline that is not installed.
    """
    chosen: dict[str, Optimizer] = {}
    for text in names:
        name, equals, factory = text.partition("=")
        if name in chosen:
            raise ValueError(f"optimizer {name!r} is named twice")
        if equals:
            if name in CHECKPOINT or name in BASELINES:
                raise ValueError(f"optimizer {name!r} is a built-in one; choose another name for yours")
            load_factory(factory)
            chosen[name] = Optimizer(name, factory=factory)
        elif name in CHECKPOINT:
            chosen[name] = Optimizer(name, checkpoint, fingerprint)
        elif name in BASELINES:
            if lacking := missing(name):
                raise ValueError(f"optimizer {name!r} needs packages that are not installed: {', '.join(lacking)}")
            chosen[name] = Optimizer(name)
        else:
            raise ValueError(
                f"no optimizer {name!r}; known are {', '.join([*CHECKPOINT, *BASELINES])}, and NAME=module:factory"
            )
    if len(chosen) < 2:
        raise ValueError("a comparison needs at least two optimizers")
    return list(chosen.values())
