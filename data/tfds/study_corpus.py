"""The TFDS builder `study_corpus`: one config per corpus file, ArrayRecord files, one record per study.

    tfds build study_corpus --imports optformer.data.tfds.study_corpus \
        --config '{"name": "wild", "path": "corpus.jsonl.gz"}' --data_dir datasets

The splits are those of `Corpus.split`: a study's group (its repository, else its search space) is hashed, and a tenth
of the groups is `validation`.  So a study and its reruns are always in one split, and adding a study to the corpus does
not move others.
"""

import collections
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from vizier import pyvizier as vz

from optformer.data.corpus.batches import _unit_hash
from optformer.data.corpus.building import study_group
from optformer.data.sources import NAMESPACE, Quarantined, SourceError, read, study_name
from optformer.data.sources.study_json import study_to_json
from optformer.extras import from_extra
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

with from_extra("data", user="the builder of TFDS"):
    import tensorflow_datasets as tfds

SUFFIXES: Final = (".jsonl.gz", ".jsonl")
HELD_OUT: Final = 0.1
"""Expected share of the groups that are in `validation`: the default of `Corpus.split`."""


@dataclasses.dataclass(eq=False)
class CorpusConfig(tfds.core.BuilderConfig):
    """One corpus file.

    Attributes:
      path: a file of any format that `optformer.data.sources` reads; default: NAME.jsonl.gz or NAME.jsonl in TFDS's
        folder for manual downloads (`--manual_dir`).
    """

    path: str | None = None


def part_of(group: str) -> str:
    """The split of a group of studies, `train` or `validation`, which depends only on its name."""
    return "validation" if _unit_hash(f"0:{group}") < HELD_OUT else "train"


class StudyCorpus(tfds.core.GeneratorBasedBuilder):
    """Logged hyperparameter-tuning studies, one complete study per record, in the order of their file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "Study as JSON (format optformer-study, version 1), facts, counts, group."
    }
    # TFDS accepts custom configs (JSON on the command line) only if the builder has at least one config.
    BUILDER_CONFIGS: ClassVar[list[CorpusConfig]] = [
        CorpusConfig(name="corpus", description="corpus.jsonl or corpus.jsonl.gz in the manual folder")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put NAME.jsonl or NAME.jsonl.gz there, as `optformer corpus import` writes them."

    def _info(self) -> tfds.core.DatasetInfo:
        def text(doc: str) -> tfds.features.Text:
            return tfds.features.Text(doc=doc)

        def number(doc: str) -> tfds.features.Scalar:
            return tfds.features.Scalar(np.int64, doc=doc)

        features = tfds.features.FeaturesDict(
            {
                "study": text("The whole study, one line of the study format."),
                "id": text("Its name in the store it came from, else `study POSITION`."),
                "algorithm": text("What chose the trials; empty: not recorded."),
                "source": text("The file it came from; empty: not recorded."),
                "group": text("Studies of one group are in one split: of one repository or one search space."),
                "group_records": number("Objectives of all studies of the group."),
                "position": number("Its place in the corpus file, from 0."),
                "trials": number("Trials in all."),
                "observed": number("Trials with a finite value of at least one objective."),
                "infeasible": number("Trials that ran and failed."),
                "parameters": number("Parameters with more than one feasible value."),
                "objectives": number("Objective metrics."),
            }
        )
        info = tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )
        info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
        return info

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        path = self._corpus_path(dl_manager)
        sizes: collections.Counter[str] = collections.Counter()
        left_out: list[dict[str, Any]] = []
        for _, study in _described(path, left_out):
            sizes[study["group"]] += study["objectives"]
        if not sizes:
            reasons = "; ".join(f"{entry['study']}: {entry['reason']}" for entry in left_out[:3])
            raise SourceError(f"{path}: holds no usable study; {len(left_out)} were left out, the first: {reasons}")
        self.info.metadata["left_out"] = left_out
        # TFDS refuses to write a split without records, which a corpus with few groups may have.
        parts = sorted({part_of(group) for group in sizes})
        return {part: self._generate_examples(path, part, sizes) for part in parts}

    def _generate_examples(
        self, path: Path, part: str, sizes: "collections.Counter[str]"
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields position and features of every study of a split; reads the corpus again, to keep no study in
        memory."""
        for study, described in _described(path, []):
            if part_of(described["group"]) == part:
                text = json.dumps(study_to_json(study), separators=(",", ":"), allow_nan=False)
                yield described["position"], described | {"study": text, "group_records": sizes[described["group"]]}

    def _corpus_path(self, dl_manager: tfds.download.DownloadManager) -> Path:
        config = self.builder_config
        if config.path is not None:
            return Path(config.path).expanduser()
        candidates = [Path(dl_manager.manual_dir) / f"{config.name}{suffix}" for suffix in SUFFIXES]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise SourceError(
                f"no corpus for the config {config.name!r}: neither {' nor '.join(map(str, candidates))} exists; "
                'name a file, as in --config \'{"name": "mine", "path": "corpus.jsonl.gz"}\''
            )
        return found[0]


def _described(path: Path, left_out: list[dict[str, Any]]) -> Iterator[tuple[vz.ProblemAndTrials, dict[str, Any]]]:
    """Yields the studies that can be serialized, with facts and counts; appends the others to `left_out`."""
    position = -1
    for record in read(path):
        if isinstance(record, Quarantined):
            left_out.append({"study": record.study, "trial": record.trial, "reason": record.reason})
            continue
        position += 1
        name = study_name(record) or f"study {position}"
        try:
            schema = StudySchema(record.problem, name)
            if not schema.slots:
                raise ValueError("its search space has no parameter with more than one feasible value")
            if not schema.metrics:
                raise ValueError("it has no objective metric")
        except ValueError as error:
            left_out.append({"study": name, "trial": None, "reason": str(error)})
            continue
        values, statuses = schema.objectives(list(record.trials))
        facts = record.problem.metadata.ns(NAMESPACE)
        yield (
            record,
            {
                "id": name,
                "algorithm": facts.get("algorithm", default=""),
                "source": facts.get("source", default=""),
                "group": study_group(record.problem, schema),
                "position": position,
                "trials": len(record.trials),
                "observed": int(np.isfinite(values).any(axis=1).sum()),
                "infeasible": int((statuses == tokens.INFEASIBLE).sum()),
                "parameters": len(schema.slots),
                "objectives": len(schema.metrics),
            },
        )
