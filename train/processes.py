"""Runs with several processes, one per host of a pod: start and synchronization.

All processes run the same program on their own devices.  Collectives wait for all processes, so a process that fails,
ends or saves alone would make the others wait forever.  Therefore, the processes first agree on every decision that
depends on a clock, a signal or a file.  With one process, these functions do nothing.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optformer.train.config import ConfigError

_T = TypeVar("_T")

AUTO = "auto"
"""Value of the coordinator's address with which JAX detects it, under Slurm, Open MPI, Kubernetes and on TPU pods."""


class OtherProcessError(RuntimeError):
    """Another process of the run failed; its own output has the reason."""


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of a run.  Call once per process, before anything that uses a device.

    Args:
      coordinator: `host:port` of process 0, the same for all, or `auto`.
      num_processes: number of processes.
      process_id: index of this process, from 0.

    Missing arguments are read from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.  If there are
    none, the hosts of a Cloud TPU pod find each other, and any other machine is a run with one process.

    Raises:
      ConfigError: some are given and others missing, or they contradict each other.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    num_processes = _number("num-processes", num_processes, "JAX_NUM_PROCESSES")
    process_id = _number("process-id", process_id, "JAX_PROCESS_ID")
    if coordinator == AUTO:
        _join({})
    elif coordinator is None and num_processes is None and process_id is None:
        if _on_tpu():
            # On a single TPU machine, which is not a pod, JAX finds no coordinator.
            with contextlib.suppress(ValueError):
                jax.distributed.initialize()
    elif coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "a run of several processes needs --coordinator HOST:PORT, --num-processes N and --process-id I, all "
            "three, in each of them (or --coordinator auto if JAX can detect them)"
        )
    elif not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id {process_id} must be 0 to {num_processes - 1}: there are {num_processes}")
    elif ":" not in coordinator:
        raise ConfigError(f"--coordinator {coordinator} has no port: write HOST:PORT, with a port free on that host")
    elif num_processes > 1:
        _join({"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id})


def is_first() -> bool:
    """Whether this process is the first one, which writes logs, files and messages."""
    return jax.process_index() == 0


def together(action: Callable[[], _T]) -> _T:
    """Runs `action()` in every process; if it fails in one, this raises in all.

    Raises:
      OtherProcessError: it failed in another process, but not in this one.
      Exception: whatever it raised in this process.
    """
    if jax.process_count() == 1:
        return action()
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    failed = np.flatnonzero(multihost_utils.process_allgather(np.asarray([failure is not None])).reshape(-1))
    if failure is not None:
        raise failure
    if failed.size:
        raise OtherProcessError(f"process {failed[0]} of the run has failed; its own output has the reason")
    return result


def first_only(action: Callable[[], _T]) -> _T | None:
    """Runs `action()` in the first process; the others wait for it and return None, or raise if it failed."""
    return together(lambda: action() if is_first() else None)


def first_then_others(action: Callable[[], _T]) -> _T:
    """Runs `action()` in the first process, then in the others, which can use the files that the first has written."""
    done = first_only(action)
    return together(lambda: action() if done is None else done)


def check_same(digest: bytes, what: str) -> None:
    """Raises `ConfigError` if a process has a different digest than the first one."""
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(digest, np.uint8)
    every = multihost_utils.process_allgather(mine).reshape(jax.process_count(), -1)
    different = np.flatnonzero((every != every[0]).any(axis=1))
    if different.size:
        raise ConfigError(f"process {different[0]} of the run has another {what} than process 0")


class Verdict(NamedTuple):
    """What the processes agreed on.

    Attributes:
      signal: number of the signal that one of them received, or 0.
      out_of_minutes: whether one of them has used up its time.
      save: whether a checkpoint is due in one of them.
    """

    signal: int
    out_of_minutes: bool
    save: bool


class Votes:
    """Lets any process end or save the run, so that all do so at the same step.

    The maximum of the votes is computed on the devices and read one step later, like the step's metrics, so no step
    waits for it.  With one process, the verdict is its vote.
    """

    def __init__(self, mesh: Mesh):
        self._pending: jax.Array | None = None
        self._several = jax.process_count() > 1
        self._rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._shape = (mesh.devices.size, len(Verdict._fields))
        self._highest = jax.jit(lambda votes: votes.max(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def cast(self, vote: Verdict) -> Verdict:
        """Votes, and returns the verdict on the votes of the step before.  Every process calls this once per step."""
        if not self._several:
            return vote
        row = np.asarray([vote], np.int32)
        votes = jax.make_array_from_callback(self._shape, self._rows, lambda _: row)
        before, self._pending = self._pending, self._highest(votes)
        signal, out_of_minutes, save = (0, 0, 0) if before is None else np.asarray(before).tolist()
        return Verdict(signal, bool(out_of_minutes), bool(save))

    def forget(self) -> None:
        """Drops the pending votes after a checkpoint, because they were cast before it."""
        self._pending = None


def _join(arguments: dict[str, Any]) -> None:
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"this process cannot join the run: {str(error).strip().splitlines()[0]}") from error


def _on_tpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return importlib.util.find_spec("libtpu") is not None and (not platforms or "tpu" in platforms)


def _number(name: str, given: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if given is not None or not text:
        return given
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{variable}={text} is not a number: set it, or --{name}, to one") from None
