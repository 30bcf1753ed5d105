"""Calls of several threads run as one: concurrent suggestions for different studies share a call of the model.

Worth its while on a GPU, where a call for one study leaves most of the machine idle; a CPU is busy with one study.
"""

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp

from optformer.model.precision import single_precision

WINDOW: Final = 0.002
"""Seconds that the first call waits for others."""

IDLE: Final = 30.0
"""Seconds without a call after which the thread ends, until the next one."""


class _Call(NamedTuple):
    shapes: Hashable
    arguments: tuple[Any, ...]
    answer: concurrent.futures.Future[Any]


class Batched:
    """A function of one study, to be called by many threads at once.

    Calls whose arguments have the same shapes run together, at most `most` of them, in groups of 1, 2, 4, ...: each
    group size is compiled once.  A call that is alone gives bit for bit what the function gives; together, sums may
    come out in another order, and the last digits with them.
    """

    def __init__(self, function: Callable[..., Any], weights: Any, most: int):
        """
        Args:
          function: (weights, *arguments) -> arrays, traceable; the arguments are pytrees of arrays.
          most: at least 2.
        """
        self._alone = jax.jit(function)
        self._together = jax.jit(lambda weights, calls: _unstacked(_mapped(function)(weights, _stacked(calls)), calls))
        self._weights, self._most = weights, most
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns for these arguments; raises what it raises."""
        leaves, treedef = jax.tree.flatten(arguments)
        shapes = (treedef, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
        call = _Call(shapes, arguments, concurrent.futures.Future())
        with self._lock:
            self._calls.put(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="batched-calls", daemon=True)
                self._thread.start()
        return call.answer.result()

    def _serve(self) -> None:
        waiting: list[_Call] = []
        while True:
            if not waiting:
                try:
                    waiting.append(self._calls.get(timeout=IDLE))
                except queue.Empty:
                    with self._lock:
                        if not self._calls.empty():
                            continue
                        self._thread = None  # else the thread would keep the weights for as long as the process lives
                        return
            deadline = time.perf_counter() + WINDOW
            while self._alike(waiting) < self._most:
                try:
                    waiting.append(self._calls.get(timeout=max(0.0, deadline - time.perf_counter())))
                except queue.Empty:
                    break
            first = waiting[0].shapes
            group = [call for call in waiting if call.shapes == first][: self._most]
            taken = {id(call) for call in group}
            waiting = [call for call in waiting if id(call) not in taken]
            self._run(group)

    @staticmethod
    def _alike(waiting: Sequence[_Call]) -> int:
        return sum(call.shapes == waiting[0].shapes for call in waiting)

    @single_precision
    def _run(self, group: Sequence[_Call]) -> None:
        try:
            if len(group) == 1:
                answers = [self._alone(self._weights, *group[0].arguments)]
            else:
                size = 2
                while size < len(group):
                    size *= 2
                filled = [*group, *[group[-1]] * (size - len(group))]
                answers = self._together(self._weights, tuple(call.arguments for call in filled))
        except BaseException as error:  # The caller's thread is where it belongs.
            for call in group:
                call.answer.set_exception(error)
            return
        for call, answer in zip(group, answers, strict=False):
            call.answer.set_result(answer)


def _mapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda weights, arguments: jax.vmap(lambda one: function(weights, *one))(arguments)


def _stacked(calls: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *calls)


def _unstacked(answer: Any, calls: Sequence[Any]) -> list[Any]:
    return [jax.tree.map(lambda leaf, k=index: leaf[k], answer) for index in range(len(calls))]
