"""The model's functions, compiled once per shape and cached: in memory per model, on disk per machine.

Shapes are rounded up to a few sizes (`bucket`), so that a study of 200 trials compiles a handful of times, not 200.

Notation: T trials, D slots, S text tokens, N candidates, V = 1004 outputs.
"""

import collections
import contextlib
import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from optformer.inference import acquisition, memory_regions
from optformer.serialization import tokens
from optformer.serialization.batch import Legality, StudyBatch

if TYPE_CHECKING:
    from optformer.model import History, Model, PooledModel
    from optformer.model.gaussian_process import Known
    from optformer.model.interface import SlotContext

Weights: TypeAlias = list[jax.Array]

CHUNK: Final = 256
"""Candidates per compiled call: enough to use all cores, few enough for a laptop's cache."""

SMALL_CHUNK: Final = 32
"""Candidates per compiled call if there are few, such as one configuration to explain or the pending trials."""

FEW: Final = 64
"""Up to this many candidates, small chunks are used: two of them take less time than one large chunk."""

CACHE_VARIABLE: Final = "OPTFORMER_COMPILATION_CACHE"
"""Environment variable: the folder for compiled functions, or `off`."""


_PATIENCE: Final = 3.0
"""Seconds of compilation after which a message is logged."""

_LOG = logging.getLogger(__name__)
_said = threading.Event()


def bucket(size: int, smallest: int, factor: int = 2) -> int:
    """The least smallest * factor^k that is at least `size`."""
    while smallest < size:
        smallest *= factor
    return smallest


def trials_bucket(count: int) -> int:
    """64, 160, 256, 1024, ...: the padded number of trials.

    The steps are large, because the number of trials grows during a study and each size costs ten seconds of
    compilation, while a row of padding costs little: 16 instead of 64 would make each of the first suggestions a sixth
    faster.  160 fits the trials that the model reads by default and a batch of pending ones.
    """
    return next((size for size in (64, 160) if count <= size), bucket(count, 256, factor=4))


def slots_bucket(count: int) -> int:
    """8, 12, 16, 24, 32, 48, ...: the padded number of slots, in finer steps since it is constant during a study."""
    return min(bucket(count, 8), bucket(count, 12))


def text_bucket(count: int) -> int:
    """256, 512, 1024, ...: the padded number of text tokens.  Small studies have 60 to 250, and the encoder is fast."""
    return bucket(count, 256)


def cache_compilations() -> Path | None:
    """Enables jax's compilation cache on disk, so that the first suggestion of the next process is fast.

    The folder is `$OPTFORMER_COMPILATION_CACHE`, or `optformer/jax` in the user's cache directory.  Does nothing if the
    variable is `off`, if the program has already configured jax's cache, or if the folder is not writable.

    Returns:
      The folder; None if the cache was not enabled.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "")
    own = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen.lower() in ("off", "0", "none") or own:
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(chosen) if chosen else base / "optformer" / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small functions count too: a suggestion needs a dozen of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


@contextlib.contextmanager
def said_if_slow() -> Iterator[None]:
    """Logs a warning if the block compiles for more than `_PATIENCE` seconds; at most once per process."""

    def say() -> None:
        if not _said.is_set():
            _said.set()
            folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
            _LOG.warning(
                "compiling the model for studies of this size, which can take a minute; %s",
                f"the result is cached in {folder}; `optformer doctor` compiles beforehand"
                if folder
                else "each process compiles again, since the compilation cache is off",
            )

    timer = threading.Timer(_PATIENCE, say)
    timer.daemon = True
    if not _said.is_set():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()  # the message that is being logged


_COMPILING: Final = threading.Lock()
"""Held while a function is compiled, so that threads that come with the same new shape compile it once."""


class CompiledModel:
    """A model with fixed weights, as compiled functions of one study."""

    def __init__(self, model: "Model", kept_histories: int = 0):
        """
        Args:
          model: the model.
          kept_histories: number of encoded histories to cache.
        """
        self._graph, weights = nnx.split(model)
        # Plain arrays: with nnx's containers, every call spends half a millisecond on flattening them.
        self._weights, self._structure = jax.tree.flatten(weights)
        self._kept = _Kept(kept_histories)
        self._has_experts = model.config.experts > 0
        self._functions: dict[tuple[str, Hashable], functools.partial[Any]] = {}
        self._compiled: set[Hashable] = set()

    def __getstate__(self) -> dict[str, object]:
        """Pickles without compiled functions and histories, so that samplers and designers can be sent to processes."""
        return {**self.__dict__, "_kept": _Kept(self._kept.most), "_functions": {}, "_compiled": set()}

    def __deepcopy__(self, memo: object) -> "CompiledModel":
        """The same model: its weights never change, and a copy would compile again."""
        return self

    def _call(self, kind: str, static: Hashable, *arguments: object) -> Any:
        """Runs one of the functions below, compiled separately for each value of `static`."""
        shapes = (kind, static, tuple(np.shape(leaf) for leaf in jax.tree.leaves(arguments)))
        if shapes not in self._compiled:
            with _COMPILING:
                if shapes not in self._compiled:
                    with said_if_slow():
                        result = jax.block_until_ready(self._function(kind, static)(*arguments))
                    self._compiled.add(shapes)
                    if memory_regions.too_many():
                        self._forget()
                    return result
        return jax.block_until_ready(self._function(kind, static)(*arguments))

    def _function(self, kind: str, static: Hashable) -> "functools.partial[Any]":
        function = self._functions.get((kind, static))
        if function is None:
            plain = jax.jit(functools.partial(getattr(self, kind), static))
            function = self._functions[kind, static] = functools.partial(plain, self._weights)
        return function

    def _forget(self) -> None:
        """Drops the compiled functions, which frees their memory regions; they are compiled again, or read from disk,
        when needed."""
        for function in list(self._functions.values()):
            jitted: Any = function.func
            jitted.clear_cache()
        self._functions.clear()
        self._compiled.clear()

    def _encode(self, _: None, weights: Weights, batch: StudyBatch) -> "History":
        return self._model(weights).encode(batch, objective=False)

    def _fit(self, _: None, weights: Weights, batch: StudyBatch, slots: "SlotContext") -> "Known | None":
        return cast("PooledModel", self._model(weights)).fit(batch, slots)  # no other model has experts

    def _logits(self, _: None, weights: Weights, history: "History", candidates: jax.Array) -> jax.Array:
        return self._model(weights).function_logits(history, candidates)[0, :, : tokens.NUM_OUTPUTS]

    def _acquisition(
        self, name: str, _: Weights, logits: jax.Array, incumbent: jax.Array, seed: jax.Array
    ) -> jax.Array:
        return acquisition.FUNCTIONS[name](logits, incumbent, _key(seed))

    def _policy(self, _: None, weights: Weights, history: "History", candidates: jax.Array) -> jax.Array:
        return _chosen(self._model(weights).policy_logits(history, candidates), candidates)[0].sum(axis=-1)

    def _next_of_each(self, _: None, weights: Weights, batch: StudyBatch, rows: jax.Array) -> jax.Array:
        model, following = self._model(weights), rows[:, None]
        return _chosen(model.policy_logits(model.encode(batch, objective=False), following), following)[:, 0]

    def _sample(
        self, count: int, weights: Weights, history: "History", legality: Legality, seed: jax.Array
    ) -> jax.Array:
        return self._model(weights).sample(history, legality, _key(seed), count)[0]

    def _model(self, weights: Weights) -> "Model":
        return nnx.merge(self._graph, jax.tree.unflatten(self._structure, weights))

    def keeping(self, histories: int) -> "CompiledModel":
        """The same model and compiled functions, with a cache of this many encoded histories."""
        if histories == self._kept.most:
            return self
        other = object.__new__(CompiledModel)
        other.__dict__ = {**self.__dict__, "_kept": _Kept(histories)}
        return other

    def encode(self, batch: StudyBatch, objective: bool = True) -> "History":
        """The history of a batch of one study, ready for candidates.

        Args:
          batch: one study.
          objective: whether objectives of candidates will be predicted; False if only the policy is used.
        """
        fits = objective and self._has_experts

        def make() -> "History":
            history: History = self._call("_encode", None, batch)
            # Compiled separately, so that the histories of both heads share a compiled `_encode`.
            return history._replace(known=self._call("_fit", None, batch, history.slots)) if fits else history

        return self._kept.get(batch, fits, make)

    def score(
        self,
        history: "History",
        candidates: Int[np.ndarray, "candidate slot"],
        name: str = "ei",
        incumbent: float = 1.0,
        seed: int = 0,
        left: int = 0,
    ) -> tuple[Float[np.ndarray, " candidate"], Float[np.ndarray, "candidate output"]]:
        """Acquisition values [N] and logits of the objective [N, V], in chunks of one of two sizes.

        Args:
          history: from `encode`.
          candidates: any number of configurations of the study's slots.
          name: name of the acquisition function.
          incumbent: best known u.
          seed: for acquisitions that draw samples.
          left: level of the remaining budget at which values are predicted, in a history with reports
            (`optformer.serialization.partial_trials`); 0 is the end of the budget.
        """
        slots = history.slots.levels.shape[1]
        further = np.asarray(history.slots.levels)[0, candidates.shape[1] :] > 0
        values, logits = [], []
        size = SMALL_CHUNK if len(candidates) <= FEW else CHUNK
        for start in range(0, len(candidates), size):
            padded = padded_candidates(candidates[start : start + size], size, slots)
            # Extra slots follow those of the search space: the budget's first, in a history with reports, then one for
            # each earlier study.
            padded[0, :, candidates.shape[1] :][:, further] = 0
            if left:
                padded[0, :, candidates.shape[1]] = left
            # Compiled separately, so that another acquisition does not compile the model again.
            logit = self._call("_logits", None, history, padded)
            value = self._call("_acquisition", name, logit, np.float32(incumbent), _seed(seed, start))
            count = min(size, len(candidates) - start)
            values.append(np.asarray(value)[:count])
            logits.append(np.asarray(logit)[:count])
        if not values:
            return np.zeros(0, np.float32), np.zeros((0, tokens.NUM_OUTPUTS), np.float32)
        return np.concatenate(values), np.concatenate(logits)

    def acquire(
        self, logits: Float[np.ndarray, "candidate output"], name: str, incumbent: float, seed: int
    ) -> Float[np.ndarray, " candidate"]:
        """Acquisition values [N] of logits that come from `score`; arguments as there."""
        values = []
        for start in range(0, len(logits), CHUNK):
            part = logits[start : start + CHUNK].astype(np.float32)
            padded = np.concatenate([part, np.zeros((CHUNK - len(part), part.shape[1]), np.float32)])
            value = self._call("_acquisition", name, padded, np.float32(incumbent), _seed(seed, start))
            values.append(np.asarray(value)[: len(part)])
        return np.concatenate(values) if values else np.zeros(0, np.float32)

    def policy_log_probability(
        self, history: "History", candidates: Int[np.ndarray, "candidate slot"]
    ) -> Float[np.ndarray, " candidate"]:
        """Log-probability, in nats, of each candidate as the next trial: the sum over its active slots."""
        slots, size = history.slots.levels.shape[1], bucket(len(candidates), 8)
        padded = padded_candidates(candidates, size, slots)
        return np.asarray(self._call("_policy", None, history, padded))[: len(candidates)]

    def next_log_probability(
        self, batch: StudyBatch, rows: Int[np.ndarray, "study slot"]
    ) -> Float[np.ndarray, "study slot"]:
        """Log-probability, in nats, of each slot of the trial that follows each study of a batch; 0 where inactive."""
        padded = padded_candidates(rows, len(rows), batch.slot_levels.shape[1])[0]
        return np.asarray(self._call("_next_of_each", None, batch, padded))[:, : rows.shape[1]]

    def sample(self, history: "History", legality: Legality, seed: int, count: int) -> Int[np.ndarray, "sample slot"]:
        """Configurations drawn from the policy, without the slots of padding."""
        slots = history.slots.levels.shape[1]
        drawn = self._call("_sample", count, history, padded_legality(legality, slots), _seed(seed))
        return np.asarray(drawn)[:, : len(legality.levels)]


def _seed(seed: int, start: int = 0) -> np.ndarray:
    """The seed as an array, from which `_key` makes a key inside the compiled function: outside, it takes 1 ms."""
    return np.array([seed % 2**32, seed // 2**32 % 2**32, start], np.uint32)


def _key(seed: jax.Array) -> jax.Array:
    key = jax.random.key(seed[0])
    return jax.random.fold_in(jax.random.fold_in(key, seed[1]), seed[2])


def _chosen(logits: jax.Array, candidates: jax.Array) -> jax.Array:
    """Log-probabilities [..., D] of the values of candidates [..., D], from policy logits [..., D, V]."""
    logits = jax.nn.log_softmax(logits[..., : tokens.NUM_OUTPUTS].astype(jnp.float32))
    value = candidates < tokens.NUM_LEVELS  # an inactive slot is not a choice
    chosen = jnp.take_along_axis(logits, jnp.where(value, candidates, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(value, chosen, 0.0)


class _Kept:
    """LRU cache of encoded histories.

    The key is a hash of all tokens, those of the objectives included, so a new trial, or one that changes the scale of
    the objective, is a miss.  A history cannot be extended by a trial, because the function head reads the known trials
    in both directions.
    """

    def __init__(self, most: int):
        self.most = most
        self._histories: collections.OrderedDict[bytes, History] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, int]:
        return {"most": self.most}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get(self, batch: StudyBatch, fits: bool, make: "Callable[[], History]") -> "History":
        if not self.most:
            return make()
        digest = hashlib.sha256(bytes([fits]))
        for field in batch:
            digest.update(repr((field.shape, field.dtype.str)).encode())
            digest.update(np.ascontiguousarray(field).tobytes())
        key = digest.digest()
        with self._lock:
            found = self._histories.pop(key, None)
        history = make() if found is None else found
        with self._lock:
            self._histories[key] = history
            while len(self._histories) > self.most:
                self._histories.popitem(last=False)
        return history


def padded_candidates(candidates: np.ndarray, count: int, slots: int) -> Int[np.ndarray, "1 candidate slot"]:
    padded = np.full((1, count, slots), tokens.PAD, np.int32)
    padded[0, : len(candidates), : candidates.shape[1]] = candidates
    return padded


def padded_legality(legality: Legality, slots: int) -> Legality:
    """Pads to `slots` slots, which have no level, so that all studies of a bucket share one shape."""
    known = len(legality.levels)
    levels, parents = np.zeros(slots, np.int32), np.full(slots, -1, np.int32)
    active_when = np.ones((slots, tokens.NUM_LEVELS), bool)
    levels[:known], parents[:known], active_when[:known] = legality
    return Legality(levels, parents, active_when)
