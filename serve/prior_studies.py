"""Earlier studies in the forms that backends accept: studies, journals, or names of studies of a service."""

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vizier import pyvizier as vz

from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.domains import Choices, Domain, ModelValue
from optformer.serve.journal import read_journal, told, trial_number

if TYPE_CHECKING:
    from vizier import pythia

PRIOR_STUDIES: Final = "prior_studies"
"""Metadata of a study of a service: names of earlier studies of the same owner, a JSON list."""

MOST_NAMED: Final = 20
"""Earlier studies that a study of a service may name: all of them are read for each suggestion."""


def ended(trials: Iterable[vz.Trial]) -> list[vz.Trial]:
    """The trials that have finished, failed or been stopped."""
    return [trial for trial in trials if trial.status == vz.TrialStatus.COMPLETED]


# Values of another study's trials in the current search space.


def in_domains(study: vz.ProblemAndTrials, domains: Mapping[str, Domain]) -> vz.ProblemAndTrials:
    """The study with the values by which the model knows those of its trials that have ended.

    A choice may be given as itself or by its label.  What none of the domains holds is left out.

    Args:
      domains: of the study at hand.
    """
    trials = []
    for trial in ended(study.trials):
        told = copy.copy(trial)
        values = {
            name: _model_value(domains[name], each.value) for name, each in trial.parameters.items() if name in domains
        }
        told.parameters = vz.ParameterDict({name: value for name, value in values.items() if value is not None})
        trials.append(told)
    return vz.ProblemAndTrials(problem=study.problem, trials=trials)


def _model_value(domain: Domain, value: Any) -> ModelValue | None:
    try:
        return domain.to_model(domain.own(value))
    except (ValueError, OverflowError):
        pass
    if isinstance(domain, Choices):
        if value not in domain.labels:
            return None
        return domain.labels.index(value) if domain.ordered else value
    # Such as a number between two steps, which the model rounds.
    return None if domain.transformed else value


# Journals of the plain loop.


def journal_study(path: Path) -> vz.ProblemAndTrials:
    """The finished, failed and stopped trials of a journal, and its metrics; its search space stays empty.

    The file is only read, also while its tuner runs.

    Raises:
      ValueError: it is not a journal (names the line, if it is one alone).
      OSError: it cannot be read.
    """
    first, *records = read_journal(path)
    metrics = []
    for name, kept in first["study"]["metrics"].items():
        goal, threshold = kept if isinstance(kept, list) else (kept, None)
        metrics.append(vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal[goal], safety_threshold=threshold))
    asked: dict[int, vz.Trial] = {}
    for line, record in enumerate(records, 2):
        try:
            number = trial_number(record)
            if "ask" in record:
                if number in asked:
                    raise ValueError(f"trial {number} is there twice")
                asked[number] = vz.Trial(id=number, parameters=record["parameters"])
            else:
                told(record, asked[number])
        except (ValueError, LookupError, TypeError) as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{path}, line {line}: {reason}") from error
    problem = vz.ProblemStatement(metric_information=metrics)
    problem.metadata.ns(METADATA_NAMESPACE)["title"] = str(path)
    return vz.ProblemAndTrials(problem=problem, trials=ended(asked.values()))


# Studies of a service.


def named_studies(metadata: vz.Metadata, study: str) -> list[str]:
    """Resource names of the earlier studies that the metadata of a study name.

    Args:
      study: its own resource name, owners/OWNER/studies/STUDY; the others are of the same owner, and may be named by
        their last part alone.

    Raises:
      ValueError: the entry is no JSON list of names, a study of another owner is named, the study itself, or too many.
    """
    entry = metadata.ns(METADATA_NAMESPACE).get(PRIOR_STUDIES)
    if entry is None:
        return []
    try:
        names = json.loads(str(entry))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{study}: {PRIOR_STUDIES} should be a JSON list of names of studies")
    if len(names) > MOST_NAMED:
        raise ValueError(f"{study}: {PRIOR_STUDIES} has {len(names)} names, and may have {MOST_NAMED}")
    owned = study.rpartition("/")[0]
    full = [name if "/" in name else f"{owned}/{name}" for name in names]
    for name, resource in zip(names, full, strict=True):
        if resource.rpartition("/")[0] != owned:
            raise ValueError(f"{study}: {PRIOR_STUDIES} names {name!r}, which is not a study of the same owner")
        if resource == study:
            raise ValueError(f"{study}: {PRIOR_STUDIES} names the study itself")
    return list(dict.fromkeys(full))


def shown_names(metadata: vz.Metadata, study: str) -> list[str]:
    """The last parts of these names; none where `named_studies` refuses them: metadata may be changed by anybody."""
    try:
        return [name.rpartition("/")[2] for name in named_studies(metadata, study)]
    except ValueError:
        return []


def fetched(supporter: "pythia.PolicySupporter", metadata: vz.Metadata, study: str) -> list[vz.ProblemAndTrials]:
    """The earlier studies that the metadata of a study name, with the trials that have ended.

    Raises:
      ValueError: as `named_studies`; also where there is no study of a name.
    """
    found = []
    for name in named_studies(metadata, study):
        try:
            problem, trials = supporter.GetStudyConfig(name), supporter.GetTrials(study_guid=name)
        except Exception as error:
            if not _is_missing(error):
                raise
            raise no_such_study(study, name) from error
        problem.metadata.ns(METADATA_NAMESPACE).setdefault("study_id", name)
        trials.sort(key=lambda trial: trial.id)
        found.append(vz.ProblemAndTrials(problem=problem, trials=ended(trials)))
    return found


def no_such_study(study: str, name: str) -> ValueError:
    """The error of a study that names an earlier one that does not exist."""
    return ValueError(f"{study}: {PRIOR_STUDIES} names {name!r}, and there is no such study")


def _is_missing(error: Exception) -> bool:
    """Whether a service says that there is no such study: Vizier's own error, a KeyError, or a status of gRPC."""
    code = getattr(error, "code", None)
    return isinstance(error, KeyError) or (callable(code) and getattr(code(), "name", "") == "NOT_FOUND")
