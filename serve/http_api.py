"""The resources of the HTTP API: owners' studies, their trials, suggestions and predictions.

Each call becomes one or two calls of Vizier's service, so that the limits, checks and locks of the gRPC service apply.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Annotated, Final, ParamSpec, TypeVar

import grpc
import prometheus_client
from fastapi import APIRouter, FastAPI, Path, Query, Response, Security
from fastapi.security import HTTPBearer
from vizier import pyvizier as vz
from vizier._src.service import custom_errors, resources, study_pb2, vizier_service_pb2
from vizier.service import pyvizier as svz

from optformer.facade import OptFormer
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve import http_choices as choices
from optformer.serve import http_conversion as conversion
from optformer.serve import http_schema as schema
from optformer.serve.gallery import Gallery
from optformer.serve.http_errors import Refusal, answer_errors
from optformer.serve.http_pages import add_pages
from optformer.serve.policies import SuggestionError, Supporter
from optformer.serve.prior_studies import fetched
from optformer.serve.statuses import http_status, status_of
from optformer.serve.studies import StudyService

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")

HEALTH_PATH: Final = "/healthz"
_STUDY: Final = "/owners/{owner}/studies/{study}"
_TRIAL: Final = _STUDY + "/trials/{trial}"
_LOG = logging.getLogger(__name__)

_Owner = Annotated[str, Path(description="Whose studies.")]
_Study = Annotated[str, Path(description="Name of the study.")]
_Trial = Annotated[int, Path(ge=1, description="Id of the trial.")]

_DESCRIPTION: Final = """Vizier's service stores the studies, so studies created here are visible to Vizier's clients,
and vice versa.  Bodies are JSON (`content-type: application/json`), without NaN or infinities.  The reply to a failed
call is `{"error": {"code": ..., "message": ...}}`."""


def make_app(
    studies: StudyService,
    model: OptFormer,
    registry: prometheus_client.CollectorRegistry,
    quick: Executor,
    slow: Executor,
    bearer: bool,
    gallery: Gallery,
) -> FastAPI:
    """The application.

    Args:
      studies: the service that stores the studies.
      model: predicts.
      registry: the metrics of the server.
      quick: runs calls that only use the database.
      slow: runs calls that use a model, so that reports of trials do not wait for suggestions.
      bearer: whether callers send a token; only for the description, since `http_guard` checks the token.
      gallery: content of the pages for browsers.
    """
    app = FastAPI(
        title="OptFormer",
        summary="Suggests trials and predicts objectives.",
        description=_DESCRIPTION,
        version="1",
        docs_url=None,  # the documentation pages of FastAPI load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    answer_errors(app)
    api = _Api(studies, model)
    router = APIRouter(
        prefix="/v1",
        responses={"default": {"model": schema.ErrorReply, "description": "Refused."}},
        dependencies=[Security(HTTPBearer(auto_error=False))] if bearer else [],
    )
    for method, path, call, pool in (
        ("POST", "/owners/{owner}/studies", api.create_study, quick),
        ("GET", "/owners/{owner}/studies", api.list_studies, quick),
        ("GET", _STUDY, api.get_study, quick),
        ("DELETE", _STUDY, api.delete_study, quick),
        ("POST", _STUDY + "/suggestions", api.suggest, slow),
        ("POST", _STUDY + "/trials", api.add_trial, None),
        ("GET", _STUDY + "/trials", api.list_trials, quick),
        ("GET", _TRIAL, api.get_trial, quick),
        ("POST", _TRIAL + "/measurements", api.add_measurement, quick),
        ("POST", _TRIAL + "/stopping", api.check_stopping, slow),
        ("POST", _TRIAL + "/complete", api.complete_trial, quick),
        ("GET", _STUDY + "/optimal_trials", api.optimal_trials, quick),
        ("POST", _STUDY + "/predictions", api.predict, slow),
    ):
        status = HTTPStatus.NO_CONTENT if method == "DELETE" else HTTPStatus.OK
        endpoint = _by_body(call, quick, slow) if pool is None else _in_pool(call, pool)
        router.add_api_route(path, endpoint, methods=[method], status_code=status)
    app.include_router(router)
    add_pages(app, studies, gallery, lambda call: _in_pool(call, quick))

    @app.get(HEALTH_PATH)
    async def health() -> schema.Health:
        """Whether the server accepts calls; needs no token."""
        return schema.Health(status="serving")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Number and duration of calls of both protocols, for Prometheus."""
        return Response(prometheus_client.generate_latest(registry), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


def _in_pool(call: Callable[_Arguments, _Answer], pool: Executor) -> Callable[_Arguments, Awaitable[_Answer]]:
    """The call in a thread of the pool; its exceptions become `Refusal`s."""

    def answered(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
        started = time.monotonic()
        try:
            return call(*arguments, **named)
        except Exception as error:
            code, said = status_of(error)
            status = http_status(code)
            if status is HTTPStatus.INTERNAL_SERVER_ERROR:
                _LOG.exception("%s failed after %.1f s", call.__name__, time.monotonic() - started)
            headers = {"retry-after": "1"} if code is grpc.StatusCode.UNAVAILABLE else None
            raise Refusal(status, code.name, said, headers) from error

    @functools.wraps(call)
    async def endpoint(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(answered, *arguments, **named))

    return endpoint


def _by_body(
    call: Callable[_Arguments, _Answer], quick: Executor, slow: Executor
) -> Callable[_Arguments, Awaitable[_Answer]]:
    """A call that adds a trial: in the slow pool if the model may have to choose missing parameters."""
    finished, to_be_run = _in_pool(call, quick), _in_pool(call, slow)

    @functools.wraps(call)
    async def endpoint(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
        body = named["body"]
        has_result = isinstance(body, schema.NewTrial) and body.metrics is not None
        return await (finished if has_result else to_be_run)(*arguments, **named)

    return endpoint


class _Api:
    """The handlers of the paths.  They raise the exceptions of Vizier's service, which `status_of` converts."""

    def __init__(self, studies: StudyService, model: OptFormer):
        self._studies, self._model = studies, model

    def create_study(
        self, owner: Annotated[schema.Name, Path(description="Owner of the study.")], body: schema.NewStudy
    ) -> schema.Study:
        """Creates a study.  If one of this name with the same search space and metrics exists, returns that one."""
        request = vizier_service_pb2.CreateStudyRequest(
            parent=resources.OwnerResource(owner).name, study=conversion.study_proto(body)
        )
        return conversion.study_reply(self._studies.CreateStudy(request))

    def list_studies(self, owner: _Owner) -> schema.Studies:
        """The studies of an owner; empty for an unknown owner."""
        request = vizier_service_pb2.ListStudiesRequest(parent=resources.OwnerResource(owner).name)
        try:
            listed = self._studies.ListStudies(request).studies
        except custom_errors.NotFoundError:
            listed = []
        return schema.Studies(studies=[conversion.summary_reply(study) for study in listed])

    def get_study(self, owner: _Owner, study: _Study) -> schema.Study:
        """A study with its search space."""
        return conversion.study_reply(self._load(_name(owner, study)))

    def delete_study(self, owner: _Owner, study: _Study) -> None:
        """Deletes a study with its trials."""
        self._studies.DeleteStudy(vizier_service_pb2.DeleteStudyRequest(name=_name(owner, study)))

    def suggest(self, owner: _Owner, study: _Study, body: schema.SuggestionRequest) -> schema.Trials:
        """Trials for a client to run: first those it has not completed or that wait for a client, then new ones."""
        name = _name(owner, study)
        operation = self._studies.SuggestTrials(
            vizier_service_pb2.SuggestTrialsRequest(parent=name, suggestion_count=body.count, client_id=body.client_id)
        )
        if operation.HasField("error"):
            code = next(code for code in grpc.StatusCode if code.value[0] == operation.error.code)
            raise SuggestionError(f"no suggestion for {name}: {operation.error.message}", code)
        made = vizier_service_pb2.SuggestTrialsResponse.FromString(operation.response.value)
        config = self._config(name)
        return schema.Trials(trials=[conversion.trial_reply(trial, config) for trial in made.trials])

    def add_trial(self, owner: _Owner, study: _Study, body: schema.NewTrial) -> schema.Trial:
        """Adds a trial that the caller chose."""
        name = _name(owner, study)
        config = self._config(name)
        request = vizier_service_pb2.CreateTrialRequest(parent=name, trial=conversion.trial_proto(body, config, name))
        return conversion.trial_reply(self._studies.CreateTrial(request), config)

    def list_trials(
        self,
        owner: _Owner,
        study: _Study,
        after: Annotated[int, Query(ge=0, description="Only trials with ids above this.")] = 0,
        limit: Annotated[int, Query(ge=1, le=schema.MOST_TRIALS_LISTED)] = schema.MOST_TRIALS_LISTED,
    ) -> schema.TrialPage:
        """The trials of a study, page by page."""
        name = _name(owner, study)
        config = self._config(name)
        trials = sorted((trial for trial in self._trials(name) if int(trial.id) > after), key=lambda t: int(t.id))
        return schema.TrialPage(
            trials=[conversion.trial_reply(trial, config) for trial in trials[:limit]],
            next_after=int(trials[limit - 1].id) if len(trials) > limit else None,
        )

    def get_trial(self, owner: _Owner, study: _Study, trial: _Trial) -> schema.Trial:
        """One trial."""
        kept = self._studies.GetTrial(vizier_service_pb2.GetTrialRequest(name=_name(owner, study, trial)))
        return self._trial_reply(owner, study, kept)

    def add_measurement(
        self, owner: _Owner, study: _Study, trial: _Trial, body: schema.MeasurementRequest
    ) -> schema.Trial:
        """Adds an intermediate measurement of a running trial."""
        name = _name(owner, study, trial)
        request = vizier_service_pb2.AddTrialMeasurementRequest(
            trial_name=name,
            measurement=conversion.measurement_proto(body.metrics, body.step, body.elapsed_seconds),
        )
        kept = self._studies.AddTrialMeasurement(request)
        if kept.state == study_pb2.Trial.State.INFEASIBLE:  # Vizier would silently drop the measurement
            raise custom_errors.ImmutableTrialError(f"{name} has been completed as infeasible")
        return self._trial_reply(owner, study, kept)

    def check_stopping(self, owner: _Owner, study: _Study, trial: _Trial) -> schema.Stopping:
        """Whether a running trial should stop: because a client requested it, or because OPTFORMER decides so, in a
        study with early stopping."""
        request = vizier_service_pb2.CheckTrialEarlyStoppingStateRequest(trial_name=_name(owner, study, trial))
        return schema.Stopping(should_stop=self._studies.CheckTrialEarlyStoppingState(request).should_stop)

    def complete_trial(self, owner: _Owner, study: _Study, trial: _Trial, body: schema.Completion) -> schema.Trial:
        """Ends a trial."""
        name = _name(owner, study, trial)
        if body.metrics is not None and body.infeasible_reason is not None:
            raise ValueError(f"{name}: give either metrics or an infeasible_reason, not both")
        request = vizier_service_pb2.CompleteTrialRequest(name=name)
        if body.infeasible_reason is not None:
            request.trial_infeasible, request.infeasible_reason = True, body.infeasible_reason
        elif body.metrics is not None:
            measurement = conversion.measurement_proto(body.metrics, body.step, body.elapsed_seconds)
            request.final_measurement.CopyFrom(measurement)
        return self._trial_reply(owner, study, self._studies.CompleteTrial(request))

    def optimal_trials(self, owner: _Owner, study: _Study) -> schema.Trials:
        """The best trials that satisfy all safety thresholds: with several objectives, the Pareto front."""
        name = _name(owner, study)
        best = self._studies.ListOptimalTrials(vizier_service_pb2.ListOptimalTrialsRequest(parent=name)).optimal_trials
        config = self._config(name)
        return schema.Trials(trials=[conversion.trial_reply(trial, config) for trial in best])

    def predict(self, owner: _Owner, study: _Study, body: schema.PredictionRequest) -> schema.Predictions:
        """Predictions of OPTFORMER for configurations, in studies of any algorithm."""
        name = _name(owner, study)
        config = self._config(name)
        problem, given = config.to_problem(), choices.kept(config.metadata)
        problem.metadata.ns(METADATA_NAMESPACE).setdefault("study_id", name)  # for messages
        trials = svz.TrialConverter.from_protos(self._trials(name))
        trials.sort(key=lambda trial: trial.id)
        candidates = [
            choices.to_labels(each, given, f"candidate {number} of {name}")
            for number, each in enumerate(body.candidates)
        ]
        prior_studies = fetched(Supporter(name, self._studies), config.metadata, name)
        prediction = self._model.predict(problem, trials, candidates, metric=body.metric, prior_studies=prior_studies)
        low, middle, high = prediction.quantile([0.05, 0.5, 0.95])
        columns = (prediction.mean, prediction.stddev, low, middle, high, prediction.infeasible)
        fields = ("mean", "stddev", "quantile_05", "quantile_50", "quantile_95", "infeasible")
        return schema.Predictions(
            checkpoint=self._model.name,
            metric=body.metric or problem.metric_information.of_type(vz.MetricType.OBJECTIVE).item().name,
            predictions=[
                schema.Prediction(**dict(zip(fields, map(float, row), strict=True)))
                for row in zip(*columns, strict=True)
            ],
        )

    def _load(self, name: str) -> study_pb2.Study:
        return self._studies.GetStudy(vizier_service_pb2.GetStudyRequest(name=name))

    def _config(self, name: str) -> svz.StudyConfig:
        return svz.StudyConfig.from_proto(self._load(name).study_spec)

    def _trials(self, name: str) -> list[study_pb2.Trial]:
        return list(self._studies.ListTrials(vizier_service_pb2.ListTrialsRequest(parent=name)).trials)

    def _trial_reply(self, owner: str, study: str, trial: study_pb2.Trial) -> schema.Trial:
        return conversion.trial_reply(trial, self._config(_name(owner, study)))


def _name(owner: str, study: str, trial: int | None = None) -> str:
    """The resource name.  Raises ValueError for parts that are not valid in one."""
    named = resources.StudyResource(owner, study)
    return named.name if trial is None else named.trial_resource(str(trial)).name
