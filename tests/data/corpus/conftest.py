"""A corpus of eight studies, each in both of its metrics."""

import pytest
from mixed_studies import study
from vizier import pyvizier as vz

from optformer.data.corpus import Corpus, building


@pytest.fixture(scope="module")
def studies() -> list[vz.ProblemAndTrials]:
    return [study(f"s{seed}", trials=6 + 5 * seed, repo=f"repo{seed // 2}", seed=seed) for seed in range(8)]


@pytest.fixture(scope="module")
def corpus(studies: list[vz.ProblemAndTrials], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    directory = tmp_path_factory.mktemp("corpus") / "cache"
    summary = building.build(studies, directory)
    assert (summary.studies, summary.records, summary.skipped) == (8, 16, ())
    return Corpus.open(directory)
