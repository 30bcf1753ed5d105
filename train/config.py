"""`TrainConfig`, the configuration of a training run, and the files that define one.

A config file is a Python file with a function `get_config()` that returns a `TrainConfig`; its docstring states the
command, the hardware, the time and the expected score.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import json
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeGuard, get_args

from flax import nnx

from optformer.data.corpus import Augmentation
from optformer.data.prior import PriorConfig
from optformer.model import ModelConfig, abstract_model
from optformer.model.precision import has_fast_bfloat16
from optformer.serialization.batch import BatchShape

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class ConfigError(ValueError):
    """A mistake in a config file, an override or a working directory.  The message says what to do about it."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Muon and AdamW with linear warm-up and decay to a floor; see `train/optimizer.py`.

    Attributes:
      matrices: what trains the matrices between hidden states, `muon` (Jordan et al. 2024) or `adamw`.
      matrix_learning_rate: Muon's peak; its updates have the root mean square of AdamW's at the same rate.
      newton_schulz_steps: iterations of Muon's orthogonalization.
      learning_rate: AdamW's peak (Loshchilov and Hutter 2019), which is reached after `warmup_steps`.
      experts_rate: factor on `learning_rate` for the experts, which may be added untrained to a trained model.
      measured_on: size of model (by name) for which both rates were found; for a model of other widths they are
        rescaled (`train/transfer.py`).  None uses the rates as they are.
      warmup_steps: steps of linear increase from 0.
      decay: shape of the decay from the peak to the floor, `cosine` or `linear`.
      final_fraction: floor of the decay, as a fraction of the peak.
      weight_decay: decoupled; on arrays of two or more axes only (not on scales of normalization).
      clip_norm: the gradient is scaled down to this global norm if it is larger.
      b1: decay rate of the mean of gradients.
      b2: decay rate of the mean of squared gradients.
      eps: added to the square root of the mean of squared gradients.
    """

    matrices: Literal["muon", "adamw"] = "muon"
    matrix_learning_rate: float = 0.02
    newton_schulz_steps: int = 5
    learning_rate: float = 2e-3
    experts_rate: float = 1.0
    measured_on: Literal["tiny", "nano", "small", "base"] | None = None
    warmup_steps: int = 100
    decay: Literal["cosine", "linear"] = "cosine"
    final_fraction: float = 0.02
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _require(self.matrices in ("muon", "adamw"), "matrices", self.matrices, "muon or adamw")
        _require(self.matrix_learning_rate > 0, "matrix_learning_rate", self.matrix_learning_rate, "positive")
        _require(self.newton_schulz_steps >= 1, "newton_schulz_steps", self.newton_schulz_steps, "positive")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        _require(self.experts_rate > 0, "experts_rate", self.experts_rate, "positive")
        sizes = (None, "tiny", "nano", "small", "base")
        _require(self.measured_on in sizes, "measured_on", self.measured_on, "tiny, nano, small, base, or none")
        _require(self.decay in ("cosine", "linear"), "decay", self.decay, "cosine or linear")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        _require(0 <= self.final_fraction <= 1, "final_fraction", self.final_fraction, "between 0 and 1")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(self.clip_norm > 0, "clip_norm", self.clip_norm, "positive")
        _require(0 <= self.b1 < 1, "b1", self.b1, "in [0, 1)")
        _require(0 <= self.b2 < 1, "b2", self.b2, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged.  The product of the three must be the number of devices.

    Attributes:
      data: number of model replicas, each of which processes its part of the batch; -1 for all remaining devices.
      fsdp: number of shards of each parameter and its optimizer state; the batch is also split over these.
      tensor: number of shards of the output axis of each matrix and its optimizer state; the batch is not split over
        these, so this saves memory but no time.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        _require(self.data == -1 or self.data >= 1, "data", self.data, "-1 or positive")
        _require(self.fsdp >= 1, "fsdp", self.fsdp, "positive")
        _require(self.tensor >= 1, "tensor", self.tensor, "positive")


Products = Literal["float32", "bfloat16", "auto"]

MAY_CHANGE: Final = {"may_change": True}
"""Marks a field that may change when a run is resumed."""

RUN: Final = MAY_CHANGE | {"compiled": False}
"""Marks a field that only affects how a run is executed: it may change as well, and no compiled function reads it."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.  Two runs with equal configs (and equal corpus) have equal losses, step by step.

    Only fields marked `MAY_CHANGE` or `RUN` may change when a run is resumed.

    Attributes:
      model: sizes of the network.
      init: checkpoint to fine-tune: a shipped name or a directory.  Its sizes replace `model`.  None for random
        weights.
      train_only: the parts of the model to train; the others keep exactly the weights of `init`.  `policy` is the slot
        decoder and does not change the predictions of objectives; `experts,function_head,norm` does not change the
        policy.  None trains everything.
      prior: distribution of the studies that are generated on the device.
      prior_steps: number of steps whose studies of the prior are generated together, which is faster per study.
      shape: padded sizes of a batch: trials, slots, text tokens, trials with policy loss.
      corpus: file or folder of the corpus; None trains on the prior alone.  A resumed run may find it elsewhere, but
        with the same content (see `workdir.py`).
      corpus_fraction: share of every batch that comes from the corpus.
      augmentation: rates of the augmentations of logged studies.
      batch_size: studies per step.
      accumulate: number of parts of a batch for gradient accumulation: less memory, same losses.
      remat: whether to keep only the outputs of blocks and recompute other activations in the backward pass: a third
        more arithmetic for a fraction of the memory.
      products: type to which the factors of a float32 model's matrix products are rounded in a training step; sums,
        attention, everything else, and validations stay float32.  `auto` is `bfloat16` if the processor has
        instructions for it; it is resolved when a run starts, and kept if another machine resumes the run.
      steps: length of the run, and of the decay of the learning rates.
      seed: seed of the initial weights, of the prior and of the order of the corpus.
      optimizer: see `OptimizerConfig`.
      ema_decay: decay of the running average of the weights, which is evaluated and exported.  Early in a run, it
        is smaller: min(ema_decay, (1 + step) / (10 + step)).  0 disables the average.
      mesh: arrangement of the devices.
      checkpoint_every: steps between checkpoints.
      checkpoint_minutes: most minutes between checkpoints.
      keep: number of latest checkpoints to keep, in addition to the one with the lowest validation function loss.
      log_every: steps per line of `metrics.jsonl`; a line holds means over them.
      eval_every: steps between validations; 0 validates at the end only.
      eval_batches: batches per validation and source, each as large as the source's part of a training batch.
      max_minutes: ends this call with a checkpoint after this time; the next call resumes.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig.nano)
    init: str | None = None
    train_only: tuple[str, ...] | None = None
    prior: PriorConfig = dataclasses.field(default_factory=PriorConfig)
    prior_steps: int = 1
    shape: BatchShape = dataclasses.field(default_factory=BatchShape)
    corpus: str | None = dataclasses.field(default=None, metadata=RUN)
    corpus_fraction: float = 0.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    batch_size: int = 32
    accumulate: int = dataclasses.field(default=1, metadata=MAY_CHANGE)
    remat: bool = dataclasses.field(default=False, metadata=MAY_CHANGE)
    products: Products = dataclasses.field(default="float32", metadata=MAY_CHANGE)
    steps: int = dataclasses.field(default=1000, metadata=MAY_CHANGE)
    seed: int = 0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    ema_decay: float = 0.999
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=RUN)
    checkpoint_every: int = dataclasses.field(default=1000, metadata=RUN)
    checkpoint_minutes: float = dataclasses.field(default=10.0, metadata=RUN)
    keep: int = dataclasses.field(default=2, metadata=RUN)
    log_every: int = dataclasses.field(default=20, metadata=RUN)
    eval_every: int = dataclasses.field(default=500, metadata=RUN)
    eval_batches: int = dataclasses.field(default=4, metadata=RUN)
    max_minutes: float | None = dataclasses.field(default=None, metadata=RUN)

    def __post_init__(self) -> None:
        _require(0 <= self.corpus_fraction <= 1, "corpus_fraction", self.corpus_fraction, "between 0 and 1")
        whole = self.train_only is None or (isinstance(self.train_only, tuple) and len(self.train_only) > 0)
        _require(whole, "train_only", self.train_only, "names of parts of the model, or none")
        for field in dataclasses.fields(self):
            if field.type is int and field.name not in ("seed", "eval_every"):
                value = getattr(self, field.name)
                _require(value >= 1, field.name, value, "positive")
        _require(self.products in get_args(Products), "products", self.products, "float32, bfloat16 or auto")
        _require(self.eval_every >= 0, "eval_every", self.eval_every, "0 or more")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        _require(self.checkpoint_minutes > 0, "checkpoint_minutes", self.checkpoint_minutes, "positive")
        _require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", self.max_minutes, "positive, or none")

    def compiled(self) -> "TrainConfig":
        """The part on which compiled functions depend: fields marked `RUN` have their defaults, `auto` is resolved."""
        defaults = TrainConfig()
        run = [field.name for field in dataclasses.fields(self) if not field.metadata.get("compiled", True)]
        return dataclasses.replace(self.decided(), **{name: getattr(defaults, name) for name in run})

    def decided(self) -> "TrainConfig":
        """The config with `auto` resolved for this machine."""
        if self.products != "auto":
            return self
        return dataclasses.replace(self, products="bfloat16" if has_fast_bfloat16() else "float32")

    @property
    def corpus_studies(self) -> int:
        """Number of studies of each batch that come from the corpus."""
        return round(self.corpus_fraction * self.batch_size)

    @property
    def prior_studies(self) -> int:
        """Number of studies of each batch that come from the prior."""
        return self.batch_size - self.corpus_studies

    def check_runnable(self) -> None:
        """Raises `ConfigError` if the fields are inconsistent.

        Not part of the constructor, because a config file may leave `corpus` to the command line.
        """
        if self.corpus_fraction > 0 and self.corpus is None:
            raise ConfigError(
                f"the config takes {self.corpus_fraction:.0%} of each batch from a corpus, but none is given: "
                "add --set corpus=FILE, or train on the prior alone with --set corpus_fraction=0"
            )
        if self.corpus is not None and self.corpus_fraction == 0:
            raise ConfigError(
                "a corpus is given, but corpus_fraction is 0: set it to the share of each batch, e.g. 0.5"
            )
        if self.train_only is not None:
            named = f"train_only={','.join(self.train_only)}"
            if self.init is None:
                raise ConfigError(f"{named} keeps the other weights of a checkpoint, but none is given: set init, too")
            parts = nnx.state(abstract_model(self.model), nnx.Param).keys()
            if not parts >= set(self.train_only):
                raise ConfigError(f"{named} must name parts of the model: {', '.join(map(str, parts))}")
        if self.corpus_fraction > 0 and self.corpus_studies == 0:
            raise ConfigError(
                f"corpus_fraction {self.corpus_fraction} of batch_size {self.batch_size} is less than half a study"
            )
        for rate in ("blind_rate", "earlier_rate"):
            if self.model.layout == "flat" and (getattr(self.augmentation, rate) or getattr(self.prior, rate)):
                raise ConfigError(
                    f"{rate} is for the pooled layout: in the flat one, each trial attends to those before it anyway"
                )
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"batch_size {self.batch_size} does not divide into accumulate = {self.accumulate} equal parts"
            )
        if self.optimizer.warmup_steps > self.steps:
            raise ConfigError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} is more than steps {self.steps}: "
                "the learning rate would never reach its peak"
            )


def load_config(name_or_path: str) -> TrainConfig:
    """The config of a file, or of a module of `optformer.configs` by its name (`tiny_logs`).

    Raises:
      ConfigError: there is no such file or name, it cannot be imported, or has no `get_config` that returns a config.
    """
    path = Path(name_or_path)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise ConfigError(f"no config file {name_or_path}{_shipped_hint(path.stem)}")
        spec = importlib.util.spec_from_file_location(f"_optformer_config_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{name_or_path} is not a Python file: a config file ends in .py")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ConfigError(f"config file {name_or_path} fails on import: {type(error).__name__}: {error}") from error
    elif name_or_path in shipped_configs():
        module = importlib.import_module(f"optformer.configs.{name_or_path}")
    else:
        raise ConfigError(f"no config file and no shipped config {name_or_path!r}{_shipped_hint(name_or_path)}")
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"config {name_or_path} has no function get_config()")
    try:
        config = get_config()
    except Exception as error:
        raise ConfigError(f"get_config() of config {name_or_path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"get_config() of config {name_or_path} returned {type(config).__name__}, not an "
            "optformer.train.config.TrainConfig"
        )
    return config


def shipped_configs() -> list[str]:
    """Names of the configs that come with the package."""
    package = importlib.import_module("optformer.configs")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as a nested dictionary of JSON values."""
    return json.loads(json.dumps(_plain(config)))


def flatten(values: object, prefix: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value of a key of `flatten(to_dict(config))`."""
    name = key.partition(".")[0]
    return any(field.name == name and "may_change" in field.metadata for field in dataclasses.fields(TrainConfig))


def is_config(value: object) -> "TypeGuard[DataclassInstance]":
    """Whether a value is a config (not a class)."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def field_names(node: "DataclassInstance") -> list[str]:
    return [field.name for field in dataclasses.fields(node)]


def _plain(value: object) -> object:
    if is_config(value):
        return {name: _plain(getattr(value, name)) for name in field_names(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", str(value))


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {what}, not {value}")


def _shipped_hint(name: str) -> str:
    known = shipped_configs()
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; shipped configs: {', '.join(known)}"
