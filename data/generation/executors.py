"""Executors that generate studies: in this process, in several local processes, or on a Ray cluster."""

import collections
import contextlib
import os
import types
from collections.abc import Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

from optformer.data.generation.plan import Plan, schedule
from optformer.data.generation.study import Generated, try_generate
from optformer.extras import from_extra


def run_locally(plan: Plan, todo: Sequence[int], processes: int, stack: contextlib.ExitStack) -> Iterator[Generated]:
    """Yields studies in the order of completion; closing `stack` shuts down the processes."""
    if processes == 1 and not _studies_per_process(plan):
        for index in todo:
            yield try_generate(plan, index)
        return
    stack.enter_context(one_thread_each())
    suspects: list[int] = []
    waiting = collections.deque(todo)
    while waiting:
        running: dict[futures.Future[Generated], int] = {}
        with _pool(plan, processes) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * processes:
                        running[pool.submit(try_generate, plan, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for each in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                        generated = each.result()
                        del running[each]
                        yield generated
            except process.BrokenProcessPool:
                suspects += running.values()
    # Each study gets its own process, to find the one that kills it.
    for index in suspects:
        with _pool(plan, 1) as pool:
            try:
                generated = pool.submit(try_generate, plan, index).result()
            except process.BrokenProcessPool:
                teacher = schedule(plan).of(index).teacher
                generated = Generated(index, teacher, 0.0, None, "its process died")
        yield generated


def _pool(plan: Plan, processes: int) -> futures.ProcessPoolExecutor:
    import multiprocessing

    # Not forked, since JAX has already started threads.
    return futures.ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        max_tasks_per_child=_studies_per_process(plan),
        initializer=_begin,
    )


def _studies_per_process(plan: Plan) -> int | None:
    """Number of studies after which a process is replaced; None: never.

    The functions compiled for Vizier's Gaussian process stay mapped: some 3,000 memory regions for a study of 25 to 60
    trials.  At 65,530 regions, Linux's default limit, LLVM fails to allocate memory and the process dies.
    """
    return 8 if "gp_ucb" in plan.teachers else None


def _begin() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    end_with_parent()


def end_with_parent() -> None:
    """Makes this process of a pool end when the process that started it is killed.

    Otherwise it would finish what it does and then wait for ever.
    """
    import multiprocessing
    import threading

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Makes processes that start within the block use one thread each, since there are several processes.

    Sets environment variables, which numerical libraries read when they are imported.
    """
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    wanted["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_on_ray(plan: Plan, todo: Sequence[int], processes: int) -> Iterator[Generated]:
    """As `run_locally`, on a Ray cluster.

    Raises:
      ModuleNotFoundError: Ray is not installed.
    """
    with ray_cluster(processes) as ray:
        task: Any = ray.remote(num_cpus=1)(try_generate)
        waiting = collections.deque(todo)
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < 2 * processes:
                index = waiting.popleft()
                running[task.remote(plan, index)] = index
            for each in ray.wait(list(running), num_returns=1)[0]:
                index = running.pop(each)
                try:
                    generated = ray.get(each)
                except ray.exceptions.RayError as error:  # after Ray's own retries
                    teacher = schedule(plan).of(index).teacher
                    generated = Generated(index, teacher, 0.0, None, f"its process died: {type(error).__name__}")
                yield generated


@contextlib.contextmanager
def ray_cluster(processes: int) -> Iterator[types.ModuleType]:
    """The module `ray`, connected to the cluster at `RAY_ADDRESS`, or to a new local one with `processes` CPUs.

    Raises:
      ModuleNotFoundError: Ray is not installed.
    """
    with from_extra("ray", user="the executor 'ray'"):
        import ray
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else processes, log_to_driver=False)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
