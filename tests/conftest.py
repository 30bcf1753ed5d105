"""Settings every test runs under: CPU, two virtual devices, no silent rank promotion, one cache of compiled code.

Compilation is most of what these tests spend their time on.  So they compile with few optimizations (none is run for
speed), and all processes of a run share one cache in `.cache/tests`, which the next run finds again.  The settings are
environment variables, so that the processes that tests start have them as well.
"""

import os
from pathlib import Path

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent.parent / ".cache" / "tests"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
} | os.environ
# The older emitters of fused loops compile three times as fast, and run slower.
# Flags of the user's own come after these and win.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=2",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import ctypes
import gc
import sys

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# No time limits per example: machines that run these tests are shared and slow at times.
hypothesis.settings.register_profile("shared_machine", deadline=None)
hypothesis.settings.load_profile("shared_machine")


@pytest.fixture(scope="module", autouse=True)
def returned_memory():
    """Returns the memory of compiled functions to the system after each module.

    Otherwise a process grows to several gigabytes: glibc keeps what is freed in small pieces.
    """
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


@pytest.fixture(scope="session")
def reference():
    """A study as a batch of its own, written from problem and trials: what corpus and prior must write as well.

    Also the scaling of its objective.  `earlier` are the trials of earlier studies of the same space, study by study;
    the scaling is then that of each trial.  `left` are levels of the budget: values at others than 0 are reports.
    """
    import numpy as np

    from optformer.serialization import tokens
    from optformer.serialization.batch import StudyRow, blank_batch, write_row
    from optformer.serialization.metadata import DEFAULT_OPTIONS, metadata_segments, tokenize
    from optformer.serialization.objective import Scaling, objective_tokens
    from optformer.serialization.partial_trials import with_budget
    from optformer.serialization.prior_studies import PriorTrials, joined
    from optformer.serialization.space import StudySchema

    def write(
        problem,
        trials,
        shape,
        *,
        algorithm=None,
        options=DEFAULT_OPTIONS,
        prefix_length=None,
        order_free=False,
        metric=0,
        values=None,
        slot_order=None,
        identities=None,
        policy_trials=None,
        earlier=(),
        left=None,
    ):
        schema, prefix = StudySchema(problem), len(trials) if prefix_length is None else prefix_length
        order = np.arange(len(schema)) if slot_order is None else np.asarray(slot_order)
        policy = np.arange(len(trials)) if policy_trials is None else np.asarray(policy_trials, int)
        x_tokens = schema.encode(trials)[:, order]
        measured, statuses = schema.objectives(trials)
        chosen = measured[:, metric] if values is None else np.asarray(values, float)
        final = None if left is None else np.asarray(left) == 0
        y_tokens, scaling, weights = objective_tokens(chosen, statuses, np.arange(len(trials)) < prefix, final)
        if earlier and prefix == 0:
            weights[1:] = 0.0
        segments = metadata_segments(schema, algorithm, options, metric)
        requested = np.array([trial.is_requested for trial in trials], bool)
        row = StudyRow(
            **tokenize([segments[0], *(segments[slot + 1] for slot in order)])._asdict(),
            slot_kinds=schema.slot_kinds[order],
            slot_levels=schema.slot_levels[order],
            slot_identities=np.arange(len(schema)) if identities is None else np.asarray(identities),
            x_tokens=x_tokens,
            y_tokens=y_tokens,
            prefix_length=prefix,
            order_free=order_free,
            policy_trials=policy,
            policy_weights=(x_tokens[policy] < tokens.NUM_LEVELS) & ~requested[policy, None],
        )
        if left is not None:
            row = with_budget(row, left)
        priors, scalings = [], []
        for each in earlier:
            measured, statuses = schema.objectives(each)
            scaled = objective_tokens(measured[:, metric], statuses, np.ones(len(each), bool))
            priors.append(PriorTrials(schema.encode(each)[:, order], scaled.tokens))
            scalings += [scaled.scaling] * len(each)
        row, before = joined(row, priors), len(scalings)
        if earlier:
            scaling = Scaling(*map(np.array, zip(*scalings, *[scaling] * len(trials), strict=True)))
        batch = blank_batch(1, shape)
        write_row(batch, 0, row)
        batch.function_weights[0, before : before + len(trials)] = weights
        return batch, scaling

    return write


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """Folder of an untrained model of the smallest size, named random-tiny."""
    from optformer.model import ModelConfig, build_model, save_checkpoint

    directory = tmp_path_factory.mktemp("checkpoints") / "random-tiny"
    save_checkpoint(directory, build_model(ModelConfig.tiny()), {"name": "random-tiny", "steps": 0})
    return str(directory)
