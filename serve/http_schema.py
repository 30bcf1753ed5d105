"""Schema of the HTTP API: requests, all fields of which are validated, and replies.

The OpenAPI description is made from these classes, so their docstrings and descriptions are written for callers.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from optformer.serve.limits import EXACT
from optformer.serve.prior_studies import MOST_NAMED

MOST_CANDIDATES = 1000
"""Largest number of candidates per prediction."""
MOST_TRIALS_LISTED = 1000
"""Largest number of trials per page."""


def _nameable(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("cannot be part of a URL")
    return name


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode text") from None
    return text


Name: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=r"^[^/\x00-\x1f\x7f]+$"),
    AfterValidator(_nameable),
]
"""Name of an owner, study or client that is valid in a resource name of Vizier."""
ParameterName: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000)]
Integer: TypeAlias = Annotated[int, Field(ge=-EXACT, le=EXACT)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=EXACT)]
Text: TypeAlias = Annotated[str, AfterValidator(_encodable)]
Value: TypeAlias = bool | Integer | float | Text | None
Scale: TypeAlias = Literal["linear", "log", "reverse_log"]

Parameters: TypeAlias = Annotated[
    dict[Text, Value],
    Field(
        description="Value by name; inactive conditional parameters are left out.",
        examples=[{"learning_rate": 0.01, "layers": 4, "optimizer": "adam"}],
    ),
]
Metrics: TypeAlias = Annotated[dict[Text, float], Field(description="Value by metric.", examples=[{"loss": 0.31}])]


class _Request(BaseModel):
    """A request.  Unknown fields, NaN, infinities, and numbers as strings are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class _Reply(BaseModel):
    model_config = ConfigDict(allow_inf_nan=True)


_STEP = "Counted from `min`; at most 1000 values.  The study stores them as a discrete parameter."


class FloatParameter(_Request):
    """Any number in a range, both bounds included."""

    type: Literal["float"]
    name: ParameterName
    min: float
    max: float
    scale: Scale = Field(
        default="linear",
        description="If no float parameter of the study has a scale, OPTFORMER searches positive ranges of a factor of "
        "1000 or more on a logarithmic scale.",
    )
    step: float | None = Field(default=None, gt=0.0, description=_STEP)
    default_value: float | None = Field(default=None, description="Suggested first by OPTFORMER.")


class IntParameter(_Request):
    """Any integer in a range, both bounds included."""

    type: Literal["int"]
    name: ParameterName
    min: Integer
    max: Integer
    scale: Scale | None = Field(default=None, description="null: the algorithm chooses.")
    step: Integer | None = Field(default=None, gt=0, description=_STEP)
    default_value: Integer | None = None
    children: "list[Branch]" = []


class DiscreteParameter(_Request):
    """One of several numbers, which are ordered."""

    type: Literal["discrete"]
    name: ParameterName
    values: list[float] = Field(min_length=1)
    scale: Scale = "linear"
    default_value: float | None = None
    children: "list[Branch]" = []


class CategoricalParameter(_Request):
    """One of several strings, numbers, booleans or null, without an order.

    Equal values (1, 1.0 and true) are one choice.  Callers over gRPC see all values as strings.
    """

    type: Literal["categorical"]
    name: ParameterName
    values: list[Value] = Field(min_length=1)
    default_value: Value = Field(default=None, description="null: no default, even if null is one of the values.")
    children: "list[Branch]" = []


class BooleanParameter(_Request):
    """True or false."""

    type: Literal["boolean"]
    name: ParameterName
    default_value: bool | None = None
    children: "list[Branch]" = []


Parameter: TypeAlias = Annotated[
    FloatParameter | IntParameter | DiscreteParameter | CategoricalParameter | BooleanParameter,
    Field(discriminator="type"),
]


class Branch(_Request):
    """Parameters that exist only under some values of their parent."""

    when: list[Value] = Field(min_length=1, description="Values of the parent.")
    parameters: list[Parameter] = Field(min_length=1)


class Metric(_Request):
    """An objective, or with `safety_threshold` a constraint on an outcome."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    goal: Literal["minimize", "maximize"]
    safety_threshold: float | None = Field(
        default=None,
        description="Makes the metric a constraint instead of an objective: OPTFORMER looks for trials whose value is "
        "at most this (goal minimize), or at least this (maximize).",
    )
    desired_min_safe_trials_fraction: float | None = Field(
        default=None, ge=0.0, le=1.0, description="Share of the trials that should satisfy the threshold, if possible."
    )


class Constraint(_Request):
    """lower <= sum of coefficient * value <= upper, which every suggestion of OPTFORMER satisfies."""

    coefficients: dict[str, float] = Field(min_length=1, description="By parameter; inactive ones contribute 0.")
    lower: float | None = None
    upper: float | None = None


Belief: TypeAlias = (
    Annotated[list[str | float], Field(min_length=3, max_length=3)] | Annotated[dict[str, float], Field(min_length=1)]
)
"""A belief about one parameter."""


class NewStudy(_Request):
    """A study to create, or to load if it exists with the same search space and metrics."""

    name: Name
    search_space: list[Parameter] = Field(min_length=1)
    metrics: list[Metric] = Field(min_length=1)
    algorithm: Text = Field(default="OPTFORMER", description="OPTFORMER, or an algorithm of Vizier.")
    constraints: list[Constraint] = Field(default=[], description="For OPTFORMER; other algorithms ignore them.")
    prior_studies: list[Name] = Field(
        default=[],
        max_length=MOST_NAMED,
        description="Names of earlier studies of the same owner, whose trials OPTFORMER also uses; they must share "
        "parameters with this one.",
    )
    early_stopping: bool = Field(
        default=False, description="Whether OPTFORMER decides if running trials should stop early."
    )
    belief: dict[ParameterName, Belief] = Field(
        default={},
        description='Where good values lie, by parameter: ["normal", mean, standard deviation], ["log_normal", median, '
        'factor], ["uniform", low, high], or weights by value, with numbers and null as text. Its influence on '
        "OPTFORMER decays with the number of trials.",
        examples=[{"learning_rate": ["log_normal", 0.001, 3.0], "optimizer": {"adam": 3.0, "sgd": 1.0}}],
    )
    cost: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Name of a further metric of the trials, such as seconds: OPTFORMER prefers cheap trials at first.",
    )


class SuggestionRequest(_Request):
    """Asks for trials to run."""

    client_id: Name = Field(
        description="The client that asks.  It first gets the trials that it has not completed, so give each worker "
        "its own client_id."
    )
    count: int = Field(default=1, ge=1, le=2**31 - 1, description="How many trials the client wants to have running.")


class MeasurementRequest(_Request):
    """An intermediate measurement of a running trial."""

    metrics: Metrics = Field(min_length=1)
    step: Count = 0
    elapsed_seconds: float = Field(default=0.0, ge=0.0, le=1e12)


class Completion(_Request):
    """The result of a trial: `metrics`, or `infeasible_reason`; if neither, the last measurement is the result."""

    metrics: Metrics | None = Field(default=None, min_length=1)
    infeasible_reason: str | None = Field(
        default=None, min_length=1, max_length=10_000, description="Why the trial failed; it is not suggested again."
    )
    step: Count = 0
    elapsed_seconds: float = Field(default=0.0, ge=0.0, le=1e12)


class NewTrial(_Request):
    """A trial that the caller chose: finished, with metrics; or without metrics, for the next client that asks.

    In the second case, OPTFORMER chooses missing parameters.
    """

    parameters: Parameters
    metrics: Metrics | None = Field(default=None, min_length=1)


class PredictionRequest(_Request):
    """Asks for predictions of configurations, given the trials of the study."""

    candidates: list[Parameters] = Field(min_length=1, max_length=MOST_CANDIDATES)
    metric: str | None = Field(default=None, description="Name of the objective; required if the study has several.")


class Study(_Reply):
    """A study on the server."""

    owner: str
    name: str
    algorithm: str
    state: Literal["active", "inactive", "completed"]
    search_space: list[Parameter]
    metrics: list[Metric]
    constraints: list[Constraint]
    prior_studies: list[str] = Field(description="Names of the earlier studies whose trials OPTFORMER also uses.")
    early_stopping: bool = Field(description="Whether OPTFORMER decides if running trials should stop early.")
    belief: dict[str, list[str | float] | dict[str, float]] = Field(
        description="Where good values lie, as given when the study was created."
    )
    cost: str | None = Field(description="Name of the metric that is the cost of a trial.")


class Stopping(_Reply):
    should_stop: bool


class StudySummary(_Reply):
    name: str
    algorithm: str
    state: Literal["active", "inactive", "completed"]


class Studies(_Reply):
    studies: list[StudySummary]


class Measurement(_Reply):
    metrics: dict[str, float | None] = Field(description="null: the value is not a finite number.")
    step: int
    elapsed_seconds: float


class Trial(_Reply):
    """A trial."""

    id: int
    status: Literal["requested", "active", "stopping", "completed", "infeasible"] = Field(
        description="requested: waits for the next client that asks; active: a client runs it."
    )
    parameters: Parameters
    client_id: str | None = Field(description="The client that runs or ran it.")
    final_measurement: Measurement | None
    measurements: list[Measurement] = Field(description="Reported while it ran.")
    infeasible_reason: str | None
    reasons: dict[str, float | str] = Field(
        description="Why OPTFORMER suggested it: source, checkpoint and, if the model predicted it, acquisition_value, "
        "mean, quantile_05, quantile_50, quantile_95 (units of the objective) and infeasible (probability); with "
        "several objectives, each followed by a colon and the metric. With constraints on outcomes: constraints_hold "
        "and holds:METRIC (probabilities), and warning if they are unlikely to hold. With a belief: belief (density, "
        "relative to its maximum). With a cost: cost (predicted median)."
    )


class Trials(_Reply):
    trials: list[Trial]


class TrialPage(Trials):
    """Trials in the order of their ids."""

    next_after: int | None = Field(description="`after` of the next page; null: this is the last one.")


class Prediction(_Reply):
    """The prediction of one candidate, in units of the objective, given that the trial does not fail."""

    mean: float
    stddev: float
    quantile_05: float
    quantile_50: float
    quantile_95: float
    infeasible: float = Field(description="Probability that the trial fails.")


class Predictions(_Reply):
    checkpoint: str = Field(description="Name of the checkpoint.")
    metric: str
    predictions: list[Prediction] = Field(description="In the order of the candidates.")


class Health(_Reply):
    status: Literal["serving"]


class Fault(_Reply):
    code: str = Field(description="Name of the error's status.", examples=["NOT_FOUND"])
    message: str = Field(description="What is wrong, in one sentence.")


class ErrorReply(_Reply):
    """The reply to a call that failed."""

    error: Fault
