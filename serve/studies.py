"""Vizier's study service, with limits, checks of what callers send, and no operation that never ends.

What Vizier's own service takes as it comes is refused here with a reason: a study that exists with another search
space, a trial outside the space, a measurement without the study's metrics or with one that is no number.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

import grpc
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2, status_pb2
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import (
    custom_errors,
    pythia_service,
    pythia_service_pb2,
    resources,
    study_pb2,
    vizier_service,
    vizier_service_pb2,
)
from vizier._src.service import types as service_types
from vizier.service import pyvizier as svz

from optformer.serve.channels import PythiaServers
from optformer.serve.vizier import ALGORITHM

_Listed = TypeVar("_Listed")


class LimitError(RuntimeError):
    """A caller asks for more than the server gives."""


class SuggestionError(grpc.RpcError):
    """The policy failed.  An RpcError, which is what Vizier's service ends an operation for."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one caller may take.

    Attributes:
      studies: per owner.
      trials: per study.
      suggestions: per call.
    """

    studies: int = 1000
    trials: int = 10_000
    suggestions: int = 100


class StudyService(vizier_service.VizierServicer):
    """Studies of a database, suggested for by a policy factory.

    Errors are raised as exceptions that `optformer.serve.grpc_server` turns into statuses.
    """

    def __init__(
        self,
        database_url: str,
        policy_factory: pythia.PolicyFactory,
        limits: Limits | None = None,
        pythia_servers: PythiaServers | None = None,
    ):
        super().__init__(database_url=database_url)
        self.limits = limits or Limits()
        self.pythia_servers = pythia_servers or PythiaServers()
        self.default_pythia_service = PolicyRunner(vizier_service=self, policy_factory=policy_factory)

    def CreateStudy(
        self, request: vizier_service_pb2.CreateStudyRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Study:
        config = _config_of(request.study)
        known = algorithms()
        if config.algorithm not in known:
            raise ValueError(f"unknown algorithm {config.algorithm!r}; known are {', '.join(known)}")
        if not config.metric_information:
            raise ValueError(f"study {request.study.display_name!r} has no metric to improve")
        if config.pythia_endpoint:
            self.pythia_servers.check(config.pythia_endpoint)
        studies = _or_none(self.datastore.list_studies, request.parent)
        new = request.study.display_name not in [study.display_name for study in studies]
        if new and len(studies) >= self.limits.studies:
            raise LimitError(f"{request.parent} has {len(studies)} studies, as many as an owner may have")
        study = super().CreateStudy(request, context)
        kept = _config_of(study)
        if kept.search_space != config.search_space or kept.metric_information != config.metric_information:
            raise custom_errors.AlreadyExistsError(
                f"study {study.display_name!r} exists with {_difference(kept, config)}; give the new one another name"
            )
        return study

    def _select_pythia_service(self, endpoint: str | None = None) -> service_types.PythiaService:
        if not endpoint:
            return self.default_pythia_service
        try:
            return self.pythia_servers.stub(endpoint)
        except OSError as error:
            raise SuggestionError(str(error)) from error

    def DeleteStudy(
        self, request: vizier_service_pb2.DeleteStudyRequest, context: grpc.ServicerContext | None = None
    ) -> empty_pb2.Empty:
        # A suggestion that is being made would write its trials into the next study of this name.
        with self._operation_lock[request.name]:
            return super().DeleteStudy(request, context)

    def SuggestTrials(
        self, request: vizier_service_pb2.SuggestTrialsRequest, context: grpc.ServicerContext | None = None
    ) -> operations_pb2.Operation:
        limits = self.limits
        if not 1 <= request.suggestion_count <= limits.suggestions:
            raise ValueError(f"between 1 and {limits.suggestions} suggestions per call, not {request.suggestion_count}")
        trials = self.datastore.max_trial_id(request.parent)
        if trials + request.suggestion_count > limits.trials and trials + self._missing(request) > limits.trials:
            raise LimitError(f"{request.parent} has {trials} trials, and may have {limits.trials}")
        # An operation is only open while its call holds this lock: one that is open now was left by a server that
        # died, and Vizier's service would hand it out for ever.
        with self._operation_lock[request.parent]:
            self._end_operations(request, "the server ended before the suggestion was made; ask again")
        try:
            return super().SuggestTrials(request, context)
        except Exception as error:
            with self._operation_lock[request.parent]:
                self._end_operations(request, f"{type(error).__name__}: {error}")
            raise

    def _missing(self, request: vizier_service_pb2.SuggestTrialsRequest) -> int:
        """Suggestions that are not met by trials that this client runs already, or that somebody asked for."""
        waiting = sum(
            trial.state == study_pb2.Trial.State.REQUESTED
            or (trial.state == study_pb2.Trial.State.ACTIVE and trial.client_id == request.client_id)
            for trial in self.datastore.list_trials(request.parent)
        )
        return max(0, request.suggestion_count - waiting)

    def _end_operations(self, request: vizier_service_pb2.SuggestTrialsRequest, reason: str) -> None:
        opened = _or_none(
            self.datastore.list_suggestion_operations, request.parent, request.client_id, lambda op: not op.done
        )
        for operation in opened:
            operation.error.CopyFrom(status_pb2.Status(code=code_pb2.Code.ABORTED, message=reason))
            operation.done = True
            self.datastore.update_suggestion_operation(operation)

    def CreateTrial(
        self, request: vizier_service_pb2.CreateTrialRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        config = _config_of(self.datastore.load_study(request.parent))
        trials = self.datastore.max_trial_id(request.parent)
        if trials >= self.limits.trials:
            raise LimitError(f"{request.parent} has {trials} trials, as many as a study may have")
        trial = svz.TrialConverter.from_proto(request.trial)
        _check_parameters(trial.parameters, config.search_space, request.parent)
        if request.trial.state == study_pb2.Trial.State.SUCCEEDED:
            _check_measurement(request.trial.final_measurement, config, f"a trial of {request.parent}")
        return super().CreateTrial(request, context)

    def AddTrialMeasurement(
        self, request: vizier_service_pb2.AddTrialMeasurementRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        _check_numbers(request.measurement, request.trial_name)
        return super().AddTrialMeasurement(request, context)

    def CompleteTrial(
        self, request: vizier_service_pb2.CompleteTrialRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        study = resources.TrialResource.from_name(request.name).study_resource.name
        config = _config_of(self.datastore.load_study(study))
        if not request.trial_infeasible:
            measurement = request.final_measurement
            trial = self.datastore.get_trial(request.name)
            if not measurement.metrics and trial.measurements:  # Vizier takes the last one then
                measurement = trial.measurements[-1]
            _check_measurement(measurement, config, request.name)
        return super().CompleteTrial(request, context)


class PolicyRunner(pythia_service.PythiaServicer):
    """Vizier's, for studies in this process or behind a stub of the service that has them."""

    def Suggest(
        self, request: pythia_service_pb2.SuggestRequest, context: grpc.ServicerContext | None = None
    ) -> pythia_service_pb2.SuggestDecision:
        # The space as it is stored: Vizier writes the request anew, and drops children of children.
        stored = self._vizier_service.GetStudy(vizier_service_pb2.GetStudyRequest(name=request.study_descriptor.guid))
        space = request.study_descriptor.config.search_space
        del space[:]
        space.extend(stored.study_spec.parameters)
        try:
            return super().Suggest(request, context)
        except Exception as error:
            raise SuggestionError(str(error)) from error


_ALGORITHMS: Final = tuple(algorithm.value for algorithm in svz.Algorithm)


def algorithms() -> tuple[str, ...]:
    """Names that a study may give as its algorithm."""
    return (ALGORITHM, "DEFAULT", *_ALGORITHMS)


def _config_of(study: study_pb2.Study) -> svz.StudyConfig:
    return svz.StudyConfig.from_proto(study.study_spec)


def _or_none(listed: Callable[..., Iterable[_Listed]], *arguments: object) -> list[_Listed]:
    """What a query lists; nothing where Vizier's store says that it knows no such owner or client."""
    try:
        return list(listed(*arguments))
    except custom_errors.NotFoundError:
        return []


def _difference(kept: svz.StudyConfig, asked: svz.StudyConfig) -> str:
    """The first thing that differs."""
    before = {parameter.name: parameter for parameter in kept.search_space.parameters}
    after = {parameter.name: parameter for parameter in asked.search_space.parameters}
    for name in [*before, *after]:
        if name not in after:
            return f"a parameter {name!r} that is missing now"
        if name not in before:
            return f"no parameter {name!r}"
        if before[name] != after[name]:
            return f"another range, scale or type of parameter {name!r}"
    return "other metrics"


def active(space: vz.SearchSpace, values: Mapping[str, object]) -> Iterator[vz.ParameterConfig]:
    """The parameters that exist under these values (of any representation), parents first."""
    waiting = list(reversed(space.parameters))
    while waiting:
        config = waiting.pop()
        yield config
        value = values.get(config.name)
        boolean = config.external_type == vz.ExternalType.BOOLEAN and isinstance(value, bool)
        kept = str(value) if boolean else value
        for condition, children in config.subspaces():
            if kept == condition:
                waiting += reversed(children.parameters)


def _check_parameters(parameters: vz.ParameterDict, space: vz.SearchSpace, study: str) -> None:
    # `SearchSpace.contains` knows no conditional spaces.
    values = {name: value.value for name, value in parameters.items()}
    known = {parameter.name: parameter for parameter in active(space, values)}
    for name in values:
        if name not in known:
            under = " under its other values" if space.is_conditional else ""
            raise ValueError(f"a trial of {study} sets {name!r}, which is no parameter of the study{under}")
    for name, parameter in known.items():
        if name not in values:
            raise ValueError(f"a trial of {study} does not set parameter {name!r}")
        if not parameter.contains(values[name]):
            raise ValueError(f"a trial of {study} sets parameter {name!r} to {values[name]!r}, outside its range")


def _check_measurement(measurement: study_pb2.Measurement, config: svz.StudyConfig, trial: str) -> None:
    given = {metric.metric_id for metric in measurement.metrics}
    missing = [metric.name for metric in config.metric_information if metric.name not in given]
    if missing:
        raise ValueError(f"the final measurement of {trial} lacks {', '.join(map(repr, missing))}")
    _check_numbers(measurement, trial)


def _check_numbers(measurement: study_pb2.Measurement, trial: str) -> None:
    for metric in measurement.metrics:
        if not math.isfinite(metric.value):
            raise ValueError(
                f"{metric.metric_id!r} of {trial} is {metric.value}: complete a trial that failed as infeasible instead"
            )
