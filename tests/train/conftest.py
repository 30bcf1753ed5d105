"""A run small enough to be trained many times."""

import dataclasses

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.prior import PriorConfig
from optformer.data.sources import write_studies
from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import MeshConfig, OptimizerConfig, TrainConfig

CONFIG_FILE = """
import importlib.util
spec = importlib.util.spec_from_file_location("shared_config", {conftest!r})
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
def get_config():
    return shared.make_config({corpus!r})
"""


# One of each, since every family and every behaviour is compiled.
SIMPLE_PRIOR = PriorConfig(
    families=(("bowl", 1.0),),
    output_warps=(("identity", 1.0),),
    failures=(("chance", 1.0),),
    behaviours=(("quasi_random", 1.0),),
)


def make_config(corpus: str, **changes) -> TrainConfig:
    config = TrainConfig(
        model=dataclasses.replace(ModelConfig.tiny(), encoder_layers=0, decoder_layers=1),
        prior=SIMPLE_PRIOR,
        shape=BatchShape(trials=6, slots=2, text=24, policy_trials=2),
        corpus=corpus,
        corpus_fraction=0.5,
        batch_size=4,
        steps=24,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        mesh=MeshConfig(fsdp=2),
        checkpoint_every=4,
        log_every=1,
        eval_every=4,
        eval_batches=1,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """Sixty studies of one or, every sixth, five parameters."""
    rng = np.random.default_rng(0)
    studies = []
    for number in range(60):
        problem = vz.ProblemStatement()
        problem.search_space.root.add_float_param("rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
        for index in range(4 if number % 6 == 5 else 0):
            problem.search_space.root.add_float_param(f"x{index}", 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
        facts = problem.metadata.ns("optformer")
        facts["study_id"], facts["repo"] = f"study {number}", f"repository {number}"
        trials = []
        for index in range(8):
            parameters = {parameter.name: float(rng.uniform(0.1, 0.9)) for parameter in problem.search_space.parameters}
            trial = vz.Trial(id=index + 1, parameters=parameters)
            trials.append(trial.complete(vz.Measurement({"loss": float(rng.normal())})))
        studies.append(vz.ProblemAndTrials(problem=problem, trials=trials))
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write_studies(path, studies)
    return path


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, corpus_file):
    """The same config as a file, for the command."""
    path = tmp_path_factory.mktemp("config") / "small_run.py"
    path.write_text(CONFIG_FILE.format(conftest=__file__, corpus=str(corpus_file)))
    return str(path)


@pytest.fixture
def config(corpus_file) -> TrainConfig:
    return make_config(str(corpus_file))
