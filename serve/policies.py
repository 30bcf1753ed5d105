"""Policies that suggest for the studies of a service: Vizier's and this package's, in this or another process."""

import functools
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Final

import grpc
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import pythia_service, pythia_service_pb2, study_pb2, vizier_service_pb2
from vizier._src.service import types as service_types
from vizier._src.service.service_policy_supporter import ServicePolicySupporter
from vizier.service import pyvizier as svz

from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.channels import PythiaServers
from optformer.serve.datastore import StudyStore
from optformer.serve.vizier import ALGORITHM, GIVEN, stop_none
from optformer.terminal import shown

_LOG = logging.getLogger(__name__)
_CONVERTED: Final = 20_000
"""Number of trials whose conversion is cached, because a study is read again for each suggestion."""


class SuggestionError(grpc.RpcError):
    """A policy could not suggest.  An RpcError, which ends the operation."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INTERNAL):
        """`code`: FAILED_PRECONDITION if the algorithm does not support the study, INTERNAL for a server error."""
        super().__init__(message)
        self._code = code

    def code(self) -> grpc.StatusCode:
        """The status code, as in other gRPC errors."""
        return self._code


class PolicyRunner(pythia_service.PythiaServicer):
    """Runs policies for the studies of a service in this process or on another server."""

    def __init__(self, vizier_service: service_types.VizierService, policy_factory: pythia.PolicyFactory):
        def made(
            problem: vz.ProblemStatement, algorithm: str, supporter: pythia.PolicySupporter, study: str
        ) -> pythia.Policy:
            # Vizier's own policies may modify the trials that they get.
            own = Supporter(study, vizier_service) if algorithm == ALGORITHM else supporter
            return policy_factory(problem, algorithm, own, study)

        super().__init__(vizier_service=vizier_service, policy_factory=made)

    def Suggest(
        self, request: pythia_service_pb2.SuggestRequest, context: grpc.ServicerContext | None = None
    ) -> pythia_service_pb2.SuggestDecision:
        """As Vizier's own method, which also logs the request, with all its values, if the algorithm fails."""
        self._restore_space(request.study_descriptor)
        study, convert = request.study_descriptor.guid, svz.SuggestConverter
        try:
            problem = convert.from_request_proto(request).study_config
            supporter = ServicePolicySupporter(study, self._vizier_service)
            policy = self._policy_factory(problem, request.algorithm, supporter, study)
            return convert.to_decision_proto(policy.suggest(convert.from_request_proto(request)))
        except Exception as error:
            # OPTFORMER raises ValueError for a study that it does not support; other algorithms may raise anything.
            if request.algorithm != ALGORITHM or isinstance(error, ValueError):
                code = grpc.StatusCode.FAILED_PRECONDITION
            else:
                code = grpc.StatusCode.INTERNAL
                _LOG.exception("algorithm %s failed for %s", request.algorithm, shown(study))
            raise SuggestionError(f"algorithm {request.algorithm}: {error}", code) from error

    def _restore_space(self, descriptor: pythia_service_pb2.StudyDescriptor) -> None:
        """Replaces the space in the request by the stored one: Vizier's conversion drops children of children."""
        stored = self._vizier_service.GetStudy(vizier_service_pb2.GetStudyRequest(name=descriptor.guid))
        del descriptor.config.search_space[:]
        descriptor.config.search_space.extend(stored.study_spec.parameters)

    def EarlyStop(
        self, request: pythia_service_pb2.EarlyStopRequest, context: grpc.ServicerContext | None = None
    ) -> pythia_service_pb2.EarlyStopDecisions:
        """Lets OPTFORMER decide if it is the algorithm of the study; else stops no trial.

        Vizier's own service asks its random policy, whatever the algorithm of the study.
        """
        if request.algorithm == ALGORITHM:
            self._restore_space(request.study_descriptor)
            return super().EarlyStop(request, context)
        converted = svz.EarlyStopConverter.from_request_proto(request)
        return svz.EarlyStopConverter.to_decisions_proto(stop_none(converted))


class Policies:
    """Asks the policies of studies: in this process, or on the server that a study names."""

    def __init__(self, datastore: StudyStore, runner: PolicyRunner, servers: PythiaServers):
        """
        Args:
          datastore: stores the studies.
          runner: runs the policies of this process.
          servers: other servers with policies.
        """
        self._datastore, self._runner, self._servers = datastore, runner, servers

    def suggest(
        self, study_name: str, count: int, given: Mapping[str, vz.ParameterValueTypes] | None = None
    ) -> pythia.SuggestDecision:
        """Suggestions for a study, with the given values of some parameters if the policy supports that.

        Raises:
          grpc.RpcError: the policy failed, or its server does not answer.
        """
        study = self._datastore.load_study(study_name)
        config = svz.StudyConfig.from_proto(study.study_spec)
        if given:
            config.metadata.ns(METADATA_NAMESPACE)[GIVEN] = json.dumps(dict(given))
        descriptor = vz.StudyDescriptor(
            config=config, guid=study_name, max_trial_id=self._datastore.max_trial_id(study_name)
        )
        request = svz.SuggestConverter.to_request_proto(pythia.SuggestRequest(study_descriptor=descriptor, count=count))
        request.algorithm = study.study_spec.algorithm
        return svz.SuggestConverter.from_decision_proto(self._service(config.pythia_endpoint).Suggest(request))

    def _service(self, endpoint: str | None) -> service_types.PythiaService:
        if not endpoint:
            return self._runner
        try:
            return self._servers.stub(endpoint)
        except OSError as error:
            raise SuggestionError(str(error), grpc.StatusCode.UNAVAILABLE) from error

    def stops(self, study_name: str, trial: int) -> bool:
        """Whether OPTFORMER stops a running trial; never in a study of another algorithm or without early stopping."""
        study = self._datastore.load_study(study_name)
        spec = study.study_spec
        if spec.algorithm != ALGORITHM or not spec.HasField("default_stopping_spec"):
            return False
        config = svz.StudyConfig.from_proto(spec)
        descriptor = vz.StudyDescriptor(config=config, guid=study_name, max_trial_id=trial)
        request = svz.EarlyStopConverter.to_request_proto(
            pythia.EarlyStopRequest(study_descriptor=descriptor, trial_ids=[trial])
        )
        request.algorithm = ALGORITHM
        decisions = self._runner.EarlyStop(request).decisions
        return any(each.id == trial and each.should_stop for each in decisions)


class Supporter(ServicePolicySupporter):
    """Caches the conversion of unchanged trials, which is most of the work in a study of thousands."""

    def GetTrials(
        self,
        *,
        study_guid: str | None = None,
        trial_ids: Iterable[int] | None = None,
        min_trial_id: int | None = None,
        max_trial_id: int | None = None,
        status_matches: vz.TrialStatus | None = None,
        include_intermediate_measurements: bool = True,
    ) -> list[vz.Trial]:
        request = vizier_service_pb2.ListTrialsRequest(parent=study_guid or self._study_guid)
        wanted = vz.TrialFilter(
            ids=trial_ids,
            min_id=min_trial_id,
            max_id=max_trial_id,
            status=[status_matches] if status_matches else None,
        )
        listed = []
        for proto in self._vizier_service.ListTrials(request).trials:
            if not include_intermediate_measurements:
                del proto.measurements[:]
            trial = _converted(proto.SerializeToString(deterministic=True))
            if wanted(trial):
                listed.append(trial)
        return listed


@functools.lru_cache(_CONVERTED)
def _converted(trial: bytes) -> vz.Trial:
    return svz.TrialConverter.from_proto(study_pb2.Trial.FromString(trial))
