"""Vizier's study service, with limits, checks of requests, and suggestions that are stored completely or not at all.

Some requests that Vizier's own service accepts are refused here, with a reason: a new study under the name of one with
another search space, a trial outside the space, a measurement that lacks a metric or has one that is not a number.
"""

import threading
from typing import Final

import grpc
import numpy as np
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, timestamp_pb2
from google.rpc import status_pb2
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import (
    custom_errors,
    key_value_pb2,
    resources,
    study_pb2,
    vizier_service,
    vizier_service_pb2,
)
from vizier.pyvizier.multimetric import SafetyChecker
from vizier.service import pyvizier as svz

from optformer.inference.hypervolume import undominated
from optformer.inference.stopped_trials import STOPPED
from optformer.serialization.space import METADATA_NAMESPACE, larger_is_better
from optformer.serve.channels import PythiaServers
from optformer.serve.datastore import StudyStore
from optformer.serve.leases import Leases
from optformer.serve.limits import (
    LimitError,
    Limits,
    check_measurement,
    check_name,
    check_numbers,
    check_parameters,
    check_record,
    check_study,
    read_trial,
)
from optformer.serve.policies import Policies, PolicyRunner, SuggestionError
from optformer.serve.prior_studies import named_studies, no_such_study
from optformer.serve.vizier import ALGORITHM, GIVEN


class StudyService(vizier_service.VizierServicer):
    """Studies in a database, with suggestions by the policies of a factory.

    Errors are exceptions, which `optformer.serve.statuses` turns into statuses.  A call that changes trials of a study
    holds the lock of the study.  A call that suggests holds the study's operation lock until it returns.
    """

    def __init__(
        self,
        database_url: str,
        policy_factory: pythia.PolicyFactory,
        limits: Limits | None = None,
        pythia_servers: PythiaServers | None = None,
        lease_seconds: float | None = None,
    ):
        """
        Args:
          database_url: URL for SQLAlchemy.
          policy_factory: makes the policy for a study.
          limits: default: `Limits()`.
          pythia_servers: servers with policies that studies may name; default: those on this machine.
          lease_seconds: a client without a call for this long loses its trials to others; None: never.

        Raises:
          ValueError, OSError: as `StudyStore`.
        """
        super().__init__(database_url=None)
        self.datastore = StudyStore(database_url)
        self.limits = limits or Limits()
        self.pythia_servers = pythia_servers or PythiaServers()
        runner = PolicyRunner(vizier_service=self, policy_factory=policy_factory)
        self.default_pythia_service = runner
        self._policies = Policies(self.datastore, runner, self.pythia_servers)
        self._leases = Leases(lease_seconds)
        self._creating = threading.Lock()  # else calls at the same time could create more studies than allowed

    def close(self) -> None:
        """Closes the database and the connections to other servers."""
        self.pythia_servers.close()
        self.datastore.close()

    # Studies.

    def CreateStudy(
        self, request: vizier_service_pb2.CreateStudyRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Study:
        check_study(request.study, self.limits)
        check_name("an owner", resources.OwnerResource.from_name(request.parent).owner_id)
        config = _config_of(request.study)
        known = algorithms()
        if config.algorithm not in known:
            raise ValueError(f"unknown algorithm {config.algorithm!r}; known are {', '.join(known)}")
        if not config.metric_information:
            raise ValueError(f"study {request.study.display_name!r} has no objective metric")
        if config.pythia_endpoint:
            self.pythia_servers.check(config.pythia_endpoint)
        self._check_prior_studies(config, f"{request.parent}/studies/{request.study.display_name}")
        with self._creating:
            try:
                studies = self.datastore.list_studies(request.parent)
            except custom_errors.NotFoundError:
                studies = []  # a new owner
            new = request.study.display_name not in [study.display_name for study in studies]
            if new and len(studies) >= self.limits.studies:
                said = f"{request.parent} has {len(studies)} studies, which is the most that an owner may have"
                raise LimitError(said)
            study = super().CreateStudy(request, context)
        kept = _config_of(study)
        if kept.search_space != config.search_space or kept.metric_information != config.metric_information:
            raise custom_errors.AlreadyExistsError(
                f"study {study.display_name!r} already exists with {_difference(kept, config)}; choose another name"
            )
        return study

    def _check_prior_studies(self, config: svz.StudyConfig, study_name: str) -> None:
        """Raises ValueError if the study names an earlier study that does not exist or has another owner."""
        for name in named_studies(config.metadata, study_name):
            try:
                self.datastore.load_study(name)
            except custom_errors.NotFoundError:
                raise no_such_study(study_name, name) from None

    def DeleteStudy(
        self, request: vizier_service_pb2.DeleteStudyRequest, context: grpc.ServicerContext | None = None
    ) -> empty_pb2.Empty:
        self.datastore.load_study(request.name)  # raises for unknown names, before a lock is created
        # Without the locks, a running suggestion could write its trials to a new study of this name.
        with self._operation_lock[request.name], self._study_name_to_lock[request.name]:
            return super().DeleteStudy(request, context)

    def SetStudyState(
        self, request: vizier_service_pb2.SetStudyStateRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Study:
        self.datastore.load_study(request.parent)
        return super().SetStudyState(request, context)

    def UpdateMetadata(
        self, request: vizier_service_pb2.UpdateMetadataRequest, context: grpc.ServicerContext | None = None
    ) -> vizier_service_pb2.UpdateMetadataResponse:
        study = self.datastore.load_study(request.name)
        self._check_room(request.name)
        with self._study_name_to_lock[request.name]:
            sizes = {"": study.ByteSize()}
            for update in request.delta:
                where = f"trial {update.trial_id} of {request.name}" if update.HasField("trial_id") else request.name
                read_trial(study_pb2.Trial(id="1", metadata=[update.metadatum]), where)
                trial = update.trial_id if update.HasField("trial_id") else ""
                if trial not in sizes:
                    name = resources.StudyResource.from_name(request.name).trial_resource(trial).name
                    sizes[trial] = self._bytes_of(name)
                sizes[trial] += update.ByteSize()
                if sizes[trial] > self.limits.record_bytes:
                    raise LimitError(
                        f"{where} may have at most {self.limits.record_bytes} bytes, with its metadata and measurements"
                    )
            return super().UpdateMetadata(request, context)

    def _bytes_of(self, trial_name: str) -> int:
        try:
            return int(self.datastore.get_trial(trial_name).ByteSize())
        except custom_errors.NotFoundError:
            return 0  # Vizier's method then reports that it is missing

    # Suggestions.

    def SuggestTrials(
        self, request: vizier_service_pb2.SuggestTrialsRequest, context: grpc.ServicerContext | None = None
    ) -> operations_pb2.Operation:
        """Trials for a client to run: those that it already runs, those that wait for a client, and new ones.

        Vizier's own service writes an operation, then each trial, then the operation again.  Here the trials and the
        operation that names them are written in one transaction, so that a crash or a full disk leaves nothing
        incomplete.  The operation that is returned is always done.
        """
        study_name, count, client = request.parent, request.suggestion_count, request.client_id
        if not 1 <= count <= self.limits.suggestions:
            most = self.limits.suggestions
            raise ValueError(f"{study_name}: the number of suggestions must be from 1 to {most}, not {count}")
        check_name("a client", client)
        self.datastore.load_study(study_name)
        self._leases.heard(study_name, client)
        with self._operation_lock[study_name]:
            started = timestamp_pb2.Timestamp()
            started.GetCurrentTime()
            operation = operations_pb2.Operation(name=self.datastore.next_operation(study_name, client), done=True)
            handed: list[study_pb2.Trial] = []

            def answered() -> operations_pb2.Operation:
                reply = vizier_service_pb2.SuggestTrialsResponse(trials=handed, start_time=started)
                operation.response.value = reply.SerializeToString()
                return operation

            with self._study_name_to_lock[study_name]:
                handed, taken = self._waiting_trials(study_name, client, count)
                for trial in taken:
                    trial.state, trial.client_id = study_pb2.Trial.State.ACTIVE, client
                    trial.start_time.CopyFrom(started)
                if len(handed) == count:
                    self.datastore.hand_out(study_name, taken, [], answered)
                    return operation
                self._check_trials(study_name, count - len(handed))
                if taken:
                    self.datastore.hand_out(study_name, taken, [])
            try:
                decision = self._policies.suggest(study_name, count - len(handed))
            except grpc.RpcError as error:
                # Failed operations are returned but not stored, so the next call makes a new one.
                code = error.code() if error.code() in _REFUSALS else grpc.StatusCode.INTERNAL
                operation.error.CopyFrom(status_pb2.Status(code=code.value[0], message=str(error)))
                return operation
            suggested = svz.TrialConverter.to_protos([suggestion.to_trial() for suggestion in decision.suggestions])
            for number, trial in enumerate(suggested):
                trial.name = resources.StudyResource.from_name(study_name).trial_resource("1").name  # numbered later
                if number < count - len(handed):
                    trial.state, trial.client_id = study_pb2.Trial.State.ACTIVE, client
                    trial.start_time.CopyFrom(started)
                else:  # more than was asked for: the next client gets them
                    trial.state = study_pb2.Trial.State.REQUESTED
            with self._study_name_to_lock[study_name]:
                self._check_mutable(study_name, "suggest trials for")
                self._update_metadata(study_name, decision.metadata)
                room = self.limits.trials - self.datastore.max_trial_id(study_name)
                handed += suggested[: min(count - len(handed), room)]
                self.datastore.hand_out(study_name, [], suggested[:room], answered)
            self._leases.heard(study_name, client)
            return operation

    def _waiting_trials(
        self, study_name: str, client: str, count: int
    ) -> tuple[list[study_pb2.Trial], list[study_pb2.Trial]]:
        """At most `count` existing trials for the client, and those among them that are assigned to it only now."""
        self._check_mutable(study_name, "suggest trials for")
        trials = self.datastore.open_trials(study_name)
        active = [trial for trial in trials if trial.state == study_pb2.Trial.State.ACTIVE]
        own = [trial for trial in active if trial.client_id == client]
        left = [t for t in active if t.client_id != client and self._leases.expired(study_name, t.client_id)]
        requested = [trial for trial in trials if trial.state == study_pb2.Trial.State.REQUESTED]
        taken = [*left, *requested][: max(0, count - len(own))]
        return [*own[:count], *taken], taken

    def _update_metadata(self, study_name: str, metadata: vz.MetadataDelta) -> None:
        on_study = svz.metadata_util.make_key_value_list(metadata.on_study)
        on_trials = svz.metadata_util.trial_metadata_to_update_list(metadata.on_trials)
        if on_study or on_trials:
            self.datastore.update_metadata(study_name, on_study, on_trials)

    def _check_mutable(self, study_name: str, to: str) -> None:
        if self._study_is_immutable(study_name):
            raise custom_errors.ImmutableStudyError(f"{study_name} has ended: cannot {to} it")

    def _check_trials(self, study_name: str, more: int) -> None:
        trials = self.datastore.max_trial_id(study_name)
        if trials + more > self.limits.trials:
            raise LimitError(f"{study_name} has {trials} trials; at most {self.limits.trials} are allowed")
        self._check_room(study_name)

    def _check_room(self, study_name: str) -> None:
        size = self.datastore.trial_bytes(study_name)
        if size >= self.limits.study_bytes:
            raise LimitError(
                f"the trials of {study_name} have {size} bytes; at most {self.limits.study_bytes} are allowed: report "
                "fewer intermediate measurements"
            )

    # Trials.

    def CreateTrial(
        self, request: vizier_service_pb2.CreateTrialRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        """Adds a trial that the caller chose: a finished one, or one for the next client that asks.

        In the second case, OPTFORMER chooses missing parameters.
        """
        study_name = request.parent
        config = _config_of(self.datastore.load_study(study_name))
        check_record(request.trial, f"a trial of {study_name}", self.limits)
        trial = read_trial(request.trial, f"a trial of {study_name}")
        lacking = check_parameters(trial.parameters, config.search_space, study_name)
        finished = request.trial.state == study_pb2.Trial.State.SUCCEEDED
        if finished:
            check_measurement(request.trial.final_measurement, config, f"a trial of {study_name}")
        self._check_trials(study_name, 1)
        if not lacking:
            return self._add(request.trial, study_name)
        if finished or config.algorithm != ALGORITHM:
            raise ValueError(f"a trial of {study_name} does not set parameter {lacking[0]!r}")
        with self._operation_lock[study_name]:  # else the same values could be suggested meanwhile
            self._fill_up(request.trial, trial.parameters.as_dict(), study_name)
            return self._add(request.trial, study_name)

    def _add(self, trial: study_pb2.Trial, study_name: str) -> study_pb2.Trial:
        """Writes a new trial, like Vizier's own method, and checks the limits under the same lock."""
        with self._study_name_to_lock[study_name]:
            self._check_mutable(study_name, "add trials to")
            self._check_trials(study_name, 1)
            if trial.state != study_pb2.Trial.State.SUCCEEDED:
                trial.state = study_pb2.Trial.State.REQUESTED
            trial.ClearField("client_id")
            trial.start_time.GetCurrentTime()
            trial.name = resources.StudyResource.from_name(study_name).trial_resource("1").name  # numbered later
            self.datastore.create_trial(trial)
        return trial

    def _fill_up(self, trial: study_pb2.Trial, given: dict[str, vz.ParameterValueTypes], study_name: str) -> None:
        """Chooses the parameters that are not given, and names the given ones in the trial's metadata.

        Raises:
          grpc.RpcError: the policy failed.
        """
        (suggestion,) = self._policies.suggest(study_name, 1, given).suggestions
        suggestion.parameters = vz.ParameterDict(suggestion.parameters.as_dict() | given)
        space = _config_of(self.datastore.load_study(study_name)).search_space
        if check_parameters(suggestion.parameters, space, study_name):  # policies of other servers may leave them out
            raise SuggestionError(f"the policy returned no values for missing parameters of a trial of {study_name}")
        suggestion.metadata.ns(METADATA_NAMESPACE)[GIVEN] = ", ".join(given)
        filled = svz.TrialConverter.to_proto(suggestion.to_trial())
        del trial.parameters[:]
        trial.parameters.extend(filled.parameters)
        trial.metadata.extend(filled.metadata)

    def AddTrialMeasurement(
        self, request: vizier_service_pb2.AddTrialMeasurementRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        check_numbers(request.measurement, request.trial_name)
        read_trial(study_pb2.Trial(id="1", measurements=[request.measurement]), request.trial_name)
        trial = self.datastore.get_trial(request.trial_name)
        study_name = _study_of(request.trial_name)
        self._leases.heard(study_name, trial.client_id)
        trial.measurements.append(request.measurement)
        check_record(trial, request.trial_name, self.limits)
        self._check_room(study_name)
        return super().AddTrialMeasurement(request, context)

    def CompleteTrial(
        self, request: vizier_service_pb2.CompleteTrialRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        config = _config_of(self.datastore.load_study(_study_of(request.name)))
        check_record(request, request.name, self.limits)
        read_trial(study_pb2.Trial(id="1", final_measurement=request.final_measurement), request.name)
        trial = self.datastore.get_trial(request.name)
        if not request.trial_infeasible and trial.state in self._TRIAL_MUTABLE_STATES:  # Vizier refuses the others
            measurement = request.final_measurement
            if not measurement.metrics and trial.measurements:  # Vizier then uses the last report
                measurement = trial.measurements[-1]
            check_measurement(measurement, config, request.name)
            if not request.final_measurement.metrics and trial.state == study_pb2.Trial.State.STOPPING:
                self._mark_stopped(request.name)
        return super().CompleteTrial(request, context)

    def _mark_stopped(self, trial_name: str) -> None:
        """Marks a trial that should stop and whose final measurement will be its last report."""
        study_name = _study_of(trial_name)
        mark = key_value_pb2.KeyValue(key=STOPPED, ns=vz.Namespace([METADATA_NAMESPACE]).encode(), value="True")
        with self._study_name_to_lock[study_name]:
            trial = self.datastore.get_trial(trial_name)
            if mark not in trial.metadata:
                trial.metadata.append(mark)
                self.datastore.update_trial(trial)

    def StopTrial(
        self, request: vizier_service_pb2.StopTrialRequest, context: grpc.ServicerContext | None = None
    ) -> study_pb2.Trial:
        self.datastore.get_trial(request.name)
        return super().StopTrial(request, context)

    def DeleteTrial(
        self, request: vizier_service_pb2.DeleteTrialRequest, context: grpc.ServicerContext | None = None
    ) -> empty_pb2.Empty:
        self.datastore.get_trial(request.name)
        with self._study_name_to_lock[_study_of(request.name)]:
            return super().DeleteTrial(request, context)

    def CheckTrialEarlyStoppingState(
        self,
        request: vizier_service_pb2.CheckTrialEarlyStoppingStateRequest,
        context: grpc.ServicerContext | None = None,
    ) -> vizier_service_pb2.CheckTrialEarlyStoppingStateResponse:
        """Whether a trial should stop: after a call of `StopTrial`, or if OPTFORMER decides so.

        OPTFORMER decides on the trials of its studies that have a `default_stopping_spec`.  Vizier's own service asks
        its random policy, whatever the algorithm of the study.
        """
        trial = self.datastore.get_trial(request.trial_name)
        if trial.state not in self._TRIAL_MUTABLE_STATES:
            state = study_pb2.Trial.State.Name(trial.state)
            raise custom_errors.ImmutableTrialError(f"{request.trial_name} is not running: it has state {state}")
        study_name = _study_of(request.trial_name)
        self._check_mutable(study_name, "stop trials of")
        self._leases.heard(study_name, trial.client_id)
        stopping = trial.state == study_pb2.Trial.State.STOPPING
        if not stopping and self._policies.stops(study_name, int(trial.id)):
            self.StopTrial(vizier_service_pb2.StopTrialRequest(name=request.trial_name))
            stopping = True
        return vizier_service_pb2.CheckTrialEarlyStoppingStateResponse(should_stop=stopping)

    def ListOptimalTrials(
        self, request: vizier_service_pb2.ListOptimalTrialsRequest, context: grpc.ServicerContext | None = None
    ) -> vizier_service_pb2.ListOptimalTrialsResponse:
        """The best trials that violate no safety metric: with several objectives, the Pareto front.

        Vizier's own service compares each pair of trials in Python, which takes minutes for thousands of trials, and
        treats safety metrics as objectives.
        """
        config = _config_of(self.datastore.load_study(request.parent))
        signs = {
            metric.name: larger_is_better(metric) for metric in config.metric_information if metric.type.is_objective
        }
        checker = SafetyChecker(config.metric_information)
        done, values = [], []
        for trial in self.datastore.list_trials(request.parent):
            measured = {metric.metric_id: metric.value for metric in trial.final_measurement.metrics}
            succeeded = trial.state == study_pb2.Trial.State.SUCCEEDED and signs.keys() <= measured.keys()
            if succeeded and checker.are_measurements_safe([vz.Measurement(metrics=measured)])[0]:
                done.append(trial)
                values.append([sign * measured[metric] for metric, sign in signs.items()])
        best = sorted((done[index] for index in undominated(np.array(values))), key=lambda trial: int(trial.id))
        return vizier_service_pb2.ListOptimalTrialsResponse(optimal_trials=best)


_REFUSALS: Final = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE)
"""Statuses of a failed policy that clients receive unchanged; others become INTERNAL."""
_ALGORITHMS: Final = tuple(algorithm.value for algorithm in svz.Algorithm)


def algorithms() -> tuple[str, ...]:
    """Names of all algorithms that a study may use."""
    return (ALGORITHM, "DEFAULT", *_ALGORITHMS)


def _config_of(study: study_pb2.Study) -> svz.StudyConfig:
    return svz.StudyConfig.from_proto(study.study_spec)


def _study_of(trial_name: str) -> str:
    return str(resources.TrialResource.from_name(trial_name).study_resource.name)


def _difference(kept: svz.StudyConfig, asked: svz.StudyConfig) -> str:
    """The first difference between two studies, as a description of the existing one."""
    before = {parameter.name: parameter for parameter in kept.search_space.parameters}
    after = {parameter.name: parameter for parameter in asked.search_space.parameters}
    for name in [*before, *after]:
        if name not in after:
            return f"a parameter {name!r}, which the new one lacks"
        if name not in before:
            return f"no parameter {name!r}, which the new one has"
        if before[name] != after[name]:
            return f"another range, scale or type of parameter {name!r}"
    return "other metrics"
