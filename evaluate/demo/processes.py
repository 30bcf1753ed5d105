"""Runs many short studies in two processes."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from optformer.data.generation.executors import end_with_parent, one_thread_each
from optformer.progress_bar import progress_bar

Result = TypeVar("Result")


def in_two_processes(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], unit: str
) -> Iterator[tuple[tuple[Any, ...], Result]]:
    """Yields each job and its result, in order; shows a progress bar.

    Args:
      function: called in two processes, which use one thread each, since an evaluation is short.
      jobs: the arguments of each call.
      unit: the unit of jobs, in the plural, for the progress bar.
    """
    context = multiprocessing.get_context("spawn")
    with (
        one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(2, mp_context=context, initializer=end_with_parent) as pool,
        progress_bar(unit) as advance,
    ):
        results = pool.map(function, *zip(*jobs, strict=True))
        for done, (job, result) in enumerate(zip(jobs, results, strict=True), start=1):
            yield job, result
            advance(done, len(jobs))
