"""Conversion between the JSON of the HTTP API and the messages of Vizier's service."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from vizier import pyvizier as vz
from vizier._src.pyvizier.oss.proto_converters import MeasurementConverter, ParameterConfigConverter
from vizier._src.pyvizier.shared.parameter_config import ParameterConfigSelector
from vizier._src.service import resources, study_pb2
from vizier.service import pyvizier as svz

from optformer.inference import beliefs, costs
from optformer.inference.constraints import Constraints, LinearConstraint, attach, attached
from optformer.serialization.space import METADATA_NAMESPACE, StudySchema, external_value, keep_scales
from optformer.serve import http_choices as choices
from optformer.serve import http_schema as schema
from optformer.serve.domains import MOST_VALUES, TOLERANCE, Choices, Steps
from optformer.serve.limits import active, check_name
from optformer.serve.prior_studies import PRIOR_STUDIES, shown_names
from optformer.serve.vizier import ALGORITHM

_DEPTH: Final = 16
"""Largest depth of conditional parameters: protocol buffers cannot read messages nested much deeper."""
_SCALES: Final = {
    "linear": vz.ScaleType.LINEAR,
    "log": vz.ScaleType.LOG,
    "reverse_log": vz.ScaleType.REVERSE_LOG,
}
_SCALE_NAMES: Final = {scale: name for name, scale in _SCALES.items()}
_STATES: Final[dict[Any, Any]] = {
    study_pb2.Study.State.INACTIVE: "inactive",
    study_pb2.Study.State.COMPLETED: "completed",
}
_STATUSES: Final[dict[Any, Any]] = {
    study_pb2.Trial.State.REQUESTED: "requested",
    study_pb2.Trial.State.STOPPING: "stopping",
    study_pb2.Trial.State.SUCCEEDED: "completed",
    study_pb2.Trial.State.INFEASIBLE: "infeasible",
}
_NUMERIC_REASONS: Final = frozenset(
    {"acquisition_value", "mean", "quantile_05", "quantile_50", "quantile_95", "infeasible"}
    | {"constraints_hold", "holds", "belief", "cost"}
)


# Studies.


def study_proto(asked: schema.NewStudy) -> study_pb2.Study:
    """A study as a message of Vizier's service.

    Raises:
      ValueError: bounds in the wrong order, repeated values, a default outside the range, children under values that
        the parent does not have, or anything that OPTFORMER cannot represent; the message names study and parameter.
    """
    space = vz.SearchSpace()
    _add(space.root, asked.search_space, f"study {asked.name!r}", depth=1)
    names = [metric.name for metric in asked.metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"study {asked.name!r} has two metrics with the same name")
    metrics = [_metric(metric, asked.name) for metric in asked.metrics]
    if all(metric.type.is_safety for metric in metrics):
        raise ValueError(f"study {asked.name!r} has no objective: every metric has a safety_threshold")
    config = svz.StudyConfig(metric_information=vz.MetricsConfig(metrics))
    config.algorithm = asked.algorithm
    if _any_scale(asked.search_space):
        keep_scales(config)
    try:
        choices.keep(config.metadata, asked.search_space)
    except ValueError as error:
        raise ValueError(f"study {asked.name!r}: {error}") from None
    if asked.constraints:
        attach(config, _constraints(asked, vz.ProblemStatement(search_space=space, metric_information=metrics)))
    if asked.prior_studies:
        config.metadata.ns(METADATA_NAMESPACE)[PRIOR_STUDIES] = json.dumps(asked.prior_studies)
    if asked.early_stopping:
        config.automated_stopping_config = svz.AutomatedStoppingConfig.default_stopping_spec()
    if asked.belief:
        _keep_belief(asked, config, vz.ProblemStatement(search_space=space, metric_information=metrics))
    if asked.cost is not None:
        check_name(f"study {asked.name!r}: the cost", asked.cost)
        costs.attach(config, asked.cost)
    study = study_pb2.Study(display_name=asked.name, study_spec=config.to_proto())
    study.study_spec.parameters.extend(_parameter_proto(parameter) for parameter in space.parameters)
    if asked.algorithm == ALGORITHM:
        # Raises errors now, not at the first suggestion.
        StudySchema(vz.ProblemStatement(search_space=space, metric_information=metrics), study=asked.name)
    return study


def _any_scale(parameters: Iterable[schema.Parameter]) -> bool:
    """Whether the caller gave the scale of any float parameter, conditional ones included."""
    return any(
        (isinstance(each, schema.FloatParameter) and "scale" in each.model_fields_set)
        or any(_any_scale(branch.parameters) for branch in getattr(each, "children", ()))
        for each in parameters
    )


def _constraints(asked: schema.NewStudy, problem: vz.ProblemStatement) -> list[LinearConstraint]:
    """Raises ValueError if a constraint uses something other than a numeric parameter, or bounds nothing."""
    try:
        constraints = [
            LinearConstraint(
                each.coefficients,
                lower=-math.inf if each.lower is None else each.lower,
                upper=math.inf if each.upper is None else each.upper,
            )
            for each in asked.constraints
        ]
    except ValueError as error:
        raise ValueError(f"study {asked.name!r}: {error}") from None
    Constraints(StudySchema(problem, study=asked.name), constraints)
    return constraints


def _keep_belief(asked: schema.NewStudy, config: svz.StudyConfig, problem: vz.ProblemStatement) -> None:
    """Writes the belief into the metadata, with the model's values.  Raises ValueError if it does not fit the space."""
    given = choices.kept(config.metadata)
    belief: dict[str, beliefs.Belief] = {
        name: choices.weights_to_labels(each, given[name]) if name in given and isinstance(each, dict) else each
        for name, each in asked.belief.items()
    }
    beliefs.Beliefs(StudySchema(problem, study=asked.name), belief)
    beliefs.attach(config, belief)


def _shown_belief(config: svz.StudyConfig, study: str) -> dict[str, Any]:
    """The belief as JSON; empty if it cannot be read, since any caller can change the metadata."""
    try:
        return beliefs.attached(config, study)
    except ValueError:
        return {}


def _metric(asked: schema.Metric, study: str) -> vz.MetricInformation:
    desired = asked.desired_min_safe_trials_fraction
    if desired is not None and asked.safety_threshold is None:
        raise ValueError(
            f"study {study!r}, metric {asked.name!r}: desired_min_safe_trials_fraction needs a safety_threshold"
        )
    return vz.MetricInformation(
        asked.name,
        goal=vz.ObjectiveMetricGoal[asked.goal.upper()],
        safety_threshold=asked.safety_threshold,
        desired_min_safe_trials_fraction=desired,
    )


def _add(root: vz.SearchSpaceSelector, parameters: list[schema.Parameter], where: str, depth: int) -> None:
    """Adds parameters under `root`; `where` is the beginning of error messages."""
    if depth > _DEPTH:
        raise ValueError(f"{where}: more than {_DEPTH} levels of conditional parameters")
    for asked in parameters:
        place = f"{where}, parameter {asked.name!r}"
        try:
            added = _added(root, asked)
        except (ValueError, TypeError) as error:
            # Vizier's own message for a duplicate prints both parameters.
            said = "two parameters have this name" if str(error).startswith("Duplicate name") else str(error)
            raise ValueError(f"{place}: {said}") from None
        _check_default(asked, next(iter(added)), place)
        for branch in getattr(asked, "children", ()):
            try:
                selected = added.select_values([_internal(value, asked) for value in branch.when])
            except (ValueError, TypeError):
                said = f"{place}: `when` names {branch.when}, but not all of these are values of the parameter"
                raise ValueError(said) from None
            _add(selected, branch.parameters, place, depth + 1)


def _added(root: vz.SearchSpaceSelector, asked: schema.Parameter) -> ParameterConfigSelector:
    # Uses Vizier's own methods, so that the study equals one created over gRPC.
    match asked:
        case schema.FloatParameter(step=float()) | schema.IntParameter(step=int()):
            return root.add_discrete_param(
                asked.name,
                _stepped(asked),
                default_value=asked.default_value,
                scale_type=_SCALES[asked.scale or "linear"],
            )
        case schema.FloatParameter():
            return root.add_float_param(
                asked.name, asked.min, asked.max, default_value=asked.default_value, scale_type=_SCALES[asked.scale]
            )
        case schema.IntParameter():
            scale = None if asked.scale is None else _SCALES[asked.scale]
            return root.add_int_param(
                asked.name, asked.min, asked.max, default_value=asked.default_value, scale_type=scale
            )
        case schema.DiscreteParameter():
            return root.add_discrete_param(
                asked.name, asked.values, default_value=asked.default_value, scale_type=_SCALES[asked.scale]
            )
        case schema.CategoricalParameter():
            default = None if asked.default_value is None else _internal(asked.default_value, asked)
            given = choices.choices_of(asked)
            labels = asked.values if given is None else given.labels
            return root.add_categorical_param(asked.name, labels, default_value=default)
        case schema.BooleanParameter():
            return root.add_bool_param(asked.name, default_value=asked.default_value)


def _stepped(asked: schema.FloatParameter | schema.IntParameter) -> list[float]:
    """The values of a range with a step.  Raises ValueError if there are too many."""
    if asked.min > asked.max:
        raise ValueError(f"Lower cannot be greater than upper: [{asked.min!r}, {asked.max!r}]")  # as Vizier says it
    steps = Steps(
        asked.min, asked.max, asked.step or 1, integral=isinstance(asked, schema.IntParameter), origin=asked.min
    )
    if steps.count > MOST_VALUES:
        raise ValueError(f"{steps.count} values; a range with a step has at most {MOST_VALUES}: leave the step out")
    return steps.values()


def _check_default(asked: schema.Parameter, config: vz.ParameterConfig, place: str) -> None:
    default = config.default_value
    if default is None:
        return
    if not config.contains(default):
        raise ValueError(f"{place}: the default value {asked.default_value!r} is none of its values")
    if not default:
        # Vizier (0.1.24) reads a stored default of 0 or "" as missing, so these are refused.
        raise ValueError(
            f"{place}: Vizier cannot store the default value {asked.default_value!r}; leave it out and add a trial "
            "without metrics, which the next client gets"
        )


def _internal(value: schema.Value, asked: schema.Parameter) -> Any:
    """A value as Vizier stores it: booleans and choices as strings.  Raises ValueError if it is not a choice."""
    if (given := choices.choices_of(asked)) is not None:
        return given.to_model(value)
    return str(value) if asked.type == "boolean" and isinstance(value, bool) else value


def _parameter_proto(config: vz.ParameterConfig) -> study_pb2.StudySpec.ParameterSpec:
    """A parameter with all its descendants; Vizier's own conversion (0.1.24) drops children of children."""
    proto = ParameterConfigConverter.to_proto(config.clone_without_children)
    for value, space in config.subspaces():
        for child in space.parameters:
            written = proto.conditional_parameter_specs.add(parameter_spec=_parameter_proto(child))
            match config.type:
                case vz.ParameterType.INTEGER:
                    written.parent_int_values.values.append(value)
                case vz.ParameterType.DISCRETE:
                    written.parent_discrete_values.values.append(value)
                case _:
                    written.parent_categorical_values.values.append(value)
    return proto


def study_reply(study: study_pb2.Study) -> schema.Study:
    """A study in the format of the API."""
    resource = resources.StudyResource.from_name(study.name)
    config = svz.StudyConfig.from_proto(study.study_spec)
    return schema.Study(
        owner=resource.owner_id,
        search_space=[
            _parameter_reply(parameter, choices.kept(config.metadata)) for parameter in config.search_space.parameters
        ],
        metrics=[
            schema.Metric.model_construct(
                name=metric.name,
                goal="minimize" if metric.goal.is_minimize else "maximize",
                safety_threshold=metric.safety_threshold,
                desired_min_safe_trials_fraction=metric.desired_min_safe_trials_fraction,
            )
            for metric in config.metric_information
        ],
        constraints=[
            schema.Constraint.model_construct(**{"lower": None, "upper": None} | each.to_dict())
            for each in attached(config, study.name)
        ],
        prior_studies=shown_names(config.metadata, study.name),
        early_stopping=study.study_spec.HasField("default_stopping_spec"),
        belief=_shown_belief(config, study.name),
        cost=costs.attached(config),
        **summary_reply(study).model_dump(),
    )


def summary_reply(study: study_pb2.Study) -> schema.StudySummary:
    """A study in the format of a list of the API."""
    return schema.StudySummary(
        name=resources.StudyResource.from_name(study.name).study_id,
        algorithm=study.study_spec.algorithm,
        state=_STATES.get(study.state, "active"),
    )


def _parameter_reply(config: vz.ParameterConfig, given: Mapping[str, Choices]) -> schema.Parameter:
    branches: list[schema.Branch] = []
    for kept, space in config.subspaces():
        value = choices.from_label(config.name, external_value(kept, config), given)
        parameters = [_parameter_reply(child, given) for child in space.parameters]
        alike = next((branch for branch in branches if branch.parameters == parameters), None)
        if alike is not None:
            alike.when.append(value)
        elif parameters:
            branches.append(schema.Branch.model_construct(when=[value], parameters=parameters))
    # Without validation: a study from gRPC may have what this API does not accept, such as longer names.
    common: dict[str, Any] = {"name": config.name, "default_value": config.default_value}
    scale = _SCALE_NAMES.get(config.scale_type)
    match config.type:
        case vz.ParameterType.DOUBLE:
            low, high = config.bounds
            return schema.FloatParameter.model_construct(
                type="float", min=low, max=high, scale=scale or "linear", **common
            )
        case vz.ParameterType.INTEGER:
            low, high = map(int, config.bounds)
            return schema.IntParameter.model_construct(
                type="int", min=low, max=high, scale=scale, children=branches, **common
            )
        case vz.ParameterType.DISCRETE:
            values = list(config.feasible_values)
            return schema.DiscreteParameter.model_construct(
                type="discrete", values=values, scale=scale or "linear", children=branches, **common
            )
    if config.external_type == vz.ExternalType.BOOLEAN and len(config.feasible_values) == 2:
        if config.default_value is not None:
            common["default_value"] = config.default_value == "True"
        return schema.BooleanParameter.model_construct(type="boolean", children=branches, **common)
    # Vizier sorts its categories.
    values = list(given[config.name].values if config.name in given else config.feasible_values)
    common["default_value"] = choices.from_label(config.name, config.default_value, given)
    return schema.CategoricalParameter.model_construct(type="categorical", values=values, children=branches, **common)


# Trials.


def trial_proto(asked: schema.NewTrial, config: svz.StudyConfig, study: str) -> study_pb2.Trial:
    """A trial as a message of Vizier's service; may lack parameters.

    Raises:
      ValueError: an unknown or inactive parameter, or a value of the wrong type; the message names study and parameter.
    """
    given = choices.to_labels(asked.parameters, choices.kept(config.metadata), f"a trial of {study}")
    trial, place = vz.Trial(), f"a trial of {study}"
    for parameter in active(config.search_space, given):
        if parameter.name in given:
            trial.parameters[parameter.name] = _stored(given[parameter.name], parameter, place)
    for name in given:
        if name in trial.parameters:
            continue
        raise ValueError(
            f"a trial of {study} sets {name!r}, which is not a parameter of the study under its other values"
        )
    if asked.metrics is not None:
        trial.complete(vz.Measurement(metrics=asked.metrics))
    return svz.TrialConverter.to_proto(trial)


def _stored(value: schema.Value, config: vz.ParameterConfig, place: str) -> float | str:
    """A value as Vizier stores it; `studies.StudyService` checks whether it is in the range."""
    boolean = config.external_type == vz.ExternalType.BOOLEAN
    if config.type != vz.ParameterType.CATEGORICAL:
        fits, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        if fits and config.type == vz.ParameterType.INTEGER:
            fits, kind = float(value or 0).is_integer(), "an integer"
    elif boolean:
        fits, kind = isinstance(value, bool), "true or false"
    else:
        fits, kind = isinstance(value, str), "a string"
    if not fits:
        raise ValueError(f"{place} sets parameter {config.name!r} to {value!r}, which should be {kind}")
    assert value is not None
    if isinstance(value, bool | str):
        return str(value)
    return _listed(value, config.feasible_values) if config.type == vz.ParameterType.DISCRETE else float(value)


def _listed(value: float, feasible: Sequence[float]) -> float:
    """The feasible value that equals this one up to rounding, as 0.3 for 0.30000000000000004; else the value itself."""
    nearest = min(feasible, key=lambda each: abs(each - value))
    gap = min((high - low for low, high in itertools.pairwise(feasible)), default=0.0)
    return float(nearest if math.isclose(nearest, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE * gap) else value)


def trial_reply(trial: study_pb2.Trial, study: svz.StudyConfig) -> schema.Trial:
    """A trial in the format of the API; Vizier stores every number as a double and every boolean as a string."""
    space, given = study.search_space, choices.kept(study.metadata)
    kept = svz.TrialConverter.from_proto(trial)
    raw = {name: value.value for name, value in kept.parameters.items()}
    values = {
        config.name: choices.from_label(config.name, _plain_value(raw[config.name], config), given)
        for config in active(space, raw)
        if config.name in raw
    }
    final = trial.final_measurement
    return schema.Trial(
        id=kept.id,
        status=_STATUSES.get(trial.state, "active"),
        parameters=values | {name: value for name, value in raw.items() if name not in values},
        client_id=trial.client_id or None,
        final_measurement=_measurement_reply(final) if final.metrics else None,
        measurements=[_measurement_reply(measurement) for measurement in trial.measurements],
        infeasible_reason=trial.infeasible_reason if trial.state == study_pb2.Trial.State.INFEASIBLE else None,
        reasons=_reasons(kept.metadata.ns(METADATA_NAMESPACE)),
    )


def _plain_value(value: float | int | str, config: vz.ParameterConfig) -> float | int | str | bool:
    if config.type == vz.ParameterType.INTEGER:
        return int(value)
    return external_value(value, config)


def _measurement_reply(measurement: study_pb2.Measurement) -> schema.Measurement:
    elapsed = measurement.elapsed_duration
    return schema.Measurement(
        metrics={
            metric.metric_id: metric.value if math.isfinite(metric.value) else None for metric in measurement.metrics
        },
        step=measurement.step_count,
        elapsed_seconds=elapsed.seconds + 1e-9 * elapsed.nanos,
    )


def _reasons(metadata: vz.Metadata) -> dict[str, float | str]:
    """The metadata of a suggestion, with numbers as floats."""
    reasons: dict[str, float | str] = {}
    for name, value in metadata.items():
        if isinstance(value, str):
            try:
                reasons[name] = float(value) if name.partition(":")[0] in _NUMERIC_REASONS else value
            except ValueError:
                reasons[name] = value
    return reasons


def measurement_proto(metrics: Mapping[str, float] | None, step: int, elapsed_seconds: float) -> study_pb2.Measurement:
    """A measurement as a message of Vizier's service."""
    measurement = vz.Measurement(metrics=dict(metrics or {}), steps=step, elapsed_secs=elapsed_seconds)
    return MeasurementConverter.to_proto(measurement)
