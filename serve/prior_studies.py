"""Earlier studies in the forms that backends accept: studies, journals, or names of studies of a service."""

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vizier import pyvizier as vz

from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.domains import Choices, Domain, ModelValue
from optformer.serve.journal import add_record, read_journal, trial_number

if TYPE_CHECKING:
    from vizier import pythia

PRIOR_STUDIES: Final = "prior_studies"
"""Metadata key of a study of a service: names of earlier studies of the same owner, as a JSON list."""

MOST_NAMED: Final = 20
"""Largest number of earlier studies that a study of a service may name; each suggestion reads all of them."""


def ended(trials: Iterable[vz.Trial]) -> list[vz.Trial]:
    """The trials that have finished, failed or been stopped."""
    return [trial for trial in trials if trial.status == vz.TrialStatus.COMPLETED]


# Values of another study's trials in the current search space.


def in_domains(study: vz.ProblemAndTrials, domains: Mapping[str, Domain]) -> vz.ProblemAndTrials:
    """The trials of the study that have ended, with the model's values.

    A choice may be given as itself or by its label.  Values outside the domains are left out.

    Args:
      study: the earlier study.
      domains: domain of each parameter of the current study.
    """
    trials = []
    for trial in ended(study.trials):
        converted = copy.copy(trial)
        values = {
            name: _model_value(domains[name], each.value) for name, each in trial.parameters.items() if name in domains
        }
        converted.parameters = vz.ParameterDict({name: value for name, value in values.items() if value is not None})
        trials.append(converted)
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
    # The value may lie between two steps; then the model rounds it.
    return None if domain.transformed else value


# Journals of the plain loop.


def journal_study(path: Path) -> vz.ProblemAndTrials:
    """The finished, failed and stopped trials of a journal, with its metrics and an empty search space.

    The file is only read.  Its tuner may be running.

    Raises:
      ValueError: the file is not a journal, or a line is damaged (the message has its number).
      OSError: the file cannot be read.
    """
    first, *records = read_journal(path)
    metrics = []
    for name, kept in first["study"]["metrics"].items():
        goal, threshold = kept if isinstance(kept, list) else (kept, None)
        metrics.append(vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal[goal], safety_threshold=threshold))
    trials: dict[int, vz.Trial] = {}
    for line, record in enumerate(records, 2):
        try:
            number = trial_number(record)
            if "ask" in record:
                if number in trials:
                    raise ValueError(f"trial {number} appears twice")
                trials[number] = vz.Trial(id=number, parameters=record["parameters"])
            else:
                add_record(record, trials[number])
        except (ValueError, LookupError, TypeError) as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{path}, line {line}: {reason}") from error
    problem = vz.ProblemStatement(metric_information=metrics)
    problem.metadata.ns(METADATA_NAMESPACE)["title"] = str(path)
    return vz.ProblemAndTrials(problem=problem, trials=ended(trials.values()))


# Studies of a service.


def named_studies(metadata: vz.Metadata, study: str) -> list[str]:
    """Resource names of the earlier studies that the metadata of a study name.

    Args:
      metadata: the metadata of the study.
      study: resource name of the study, owners/OWNER/studies/STUDY.  Earlier studies have the same owner, so STUDY is
        enough to name them.

    Raises:
      ValueError: the entry is not a JSON list of names, has too many, or names the study itself or a study of another
        owner.
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
        raise ValueError(f"{study}: {PRIOR_STUDIES} has {len(names)} names; at most {MOST_NAMED} are allowed")
    owned = study.rpartition("/")[0]
    full = [name if "/" in name else f"{owned}/{name}" for name in names]
    for name, resource in zip(names, full, strict=True):
        if resource.rpartition("/")[0] != owned:
            raise ValueError(f"{study}: {PRIOR_STUDIES} names {name!r}, which is not a study of the same owner")
        if resource == study:
            raise ValueError(f"{study}: {PRIOR_STUDIES} names the study itself")
    return list(dict.fromkeys(full))


def shown_names(metadata: vz.Metadata, study: str) -> list[str]:
    """The last parts of these names; empty if `named_studies` raises, since any caller can change the metadata."""
    try:
        return [name.rpartition("/")[2] for name in named_studies(metadata, study)]
    except ValueError:
        return []


def fetched(supporter: "pythia.PolicySupporter", metadata: vz.Metadata, study: str) -> list[vz.ProblemAndTrials]:
    """The earlier studies that the metadata of a study name, with the trials that have ended.

    Raises:
      ValueError: as `named_studies`; also if a study does not exist.
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
    return ValueError(f"{study}: {PRIOR_STUDIES} names {name!r}, which does not exist")


def _is_missing(error: Exception) -> bool:
    """Whether a service says that there is no such study: Vizier's own error, a KeyError, or a status of gRPC."""
    code = getattr(error, "code", None)
    return isinstance(error, KeyError) or (callable(code) and getattr(code(), "name", "") == "NOT_FOUND")
