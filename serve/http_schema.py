"""Schema of the HTTP API: requests, all fields of which are validated, and replies.

The OpenAPI description is made from these classes, so their docstrings and descriptions are written for callers.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from optformer.serve.limits import EXACT
from optformer.serve.prior_studies import MOST_NAMED

MOST_CANDIDATES = 1000
"""Candidates per prediction."""
MOST_TRIALS_LISTED = 1000
"""Trials per page."""


def _nameable(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("no URL can name it")
    return name


Name: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=r"^[^/\x00-\x1f\x7f]+$"),
    AfterValidator(_nameable),
]
"""Of an owner, study or client: what a resource name of Vizier can carry."""
ParameterName: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000)]
Integer: TypeAlias = Annotated[int, Field(ge=-EXACT, le=EXACT)]
Value: TypeAlias = bool | Integer | float | str | None
Scale: TypeAlias = Literal["linear", "log", "reverse_log"]

Parameters: TypeAlias = Annotated[
    dict[str, Value],
    Field(
        description="Value by name; inactive conditional parameters are left out.",
        examples=[{"learning_rate": 0.01, "layers": 4, "optimizer": "adam"}],
    ),
]
Metrics: TypeAlias = Annotated[dict[str, float], Field(description="Value by metric.", examples=[{"loss": 0.31}])]


class _Request(BaseModel):
    """Unknown fields, NaN, infinities, and numbers that are strings are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class _Reply(BaseModel):
    model_config = ConfigDict(allow_inf_nan=True)


_STEP = "From `min` on; at most 1000 values.  The study keeps them as a discrete parameter."


class FloatParameter(_Request):
    """Any number of a range, both ends included."""

    type: Literal["float"]
    name: ParameterName
    min: float
    max: float
    scale: Scale = Field(
        default="linear",
        description="OPTFORMER searches positive linear ranges of three decades or more on a logarithmic scale.",
    )
    step: float | None = Field(default=None, gt=0.0, description=_STEP)
    default_value: float | None = Field(default=None, description="Suggested first by OPTFORMER.")


class IntParameter(_Request):
    """Any integer of a range, both ends included."""

    type: Literal["int"]
    name: ParameterName
    min: Integer
    max: Integer
    scale: Scale | None = Field(default=None, description="Without one the algorithm chooses.")
    step: Integer | None = Field(default=None, gt=0, description=_STEP)
    default_value: Integer | None = None
    children: "list[Branch]" = []


class DiscreteParameter(_Request):
    """One of some numbers, whose order matters."""

    type: Literal["discrete"]
    name: ParameterName
    values: list[float] = Field(min_length=1)
    scale: Scale = "linear"
    default_value: float | None = None
    children: "list[Branch]" = []


class CategoricalParameter(_Request):
    """One of some strings, numbers, booleans or null, without an order.

    Equal ones (1, 1.0 and true) are one.  Callers over gRPC see strings for those that are none.
    """

    type: Literal["categorical"]
    name: ParameterName
    values: list[Value] = Field(min_length=1)
    default_value: Value = Field(default=None, description="null: none, also where null is one of the values.")
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
    """What a trial is measured by."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    goal: Literal["minimize", "maximize"]
    safety_threshold: float | None = Field(
        default=None,
        description="Makes the metric a constraint in place of an objective: OPTFORMER looks for trials whose value is "
        "not above it (goal minimize), or not below it (maximize).",
    )
    desired_min_safe_trials_fraction: float | None = Field(
        default=None, ge=0.0, le=1.0, description="Share of the trials that should hold the threshold, if possible."
    )


class Constraint(_Request):
    """lower <= sum of coefficient * value <= upper, which every suggestion of OPTFORMER satisfies."""

    coefficients: dict[str, float] = Field(min_length=1, description="By parameter; inactive ones add nothing.")
    lower: float | None = None
    upper: float | None = None


Belief: TypeAlias = (
    Annotated[list[str | float], Field(min_length=3, max_length=3)] | Annotated[dict[str, float], Field(min_length=1)]
)
"""Of one parameter."""


class NewStudy(_Request):
    """A study to make, or to find if it exists with the same search space and metrics."""

    name: Name
    search_space: list[Parameter] = Field(min_length=1)
    metrics: list[Metric] = Field(min_length=1)
    algorithm: str = Field(default="OPTFORMER", description="OPTFORMER, or one of Vizier's own.")
    constraints: list[Constraint] = Field(default=[], description="Of OPTFORMER; other algorithms ignore them.")
    prior_studies: list[Name] = Field(
        default=[],
        max_length=MOST_NAMED,
        description="Names of earlier studies of the same owner, whose trials OPTFORMER uses as well; they share some "
        "parameters with this one.",
    )
    early_stopping: bool = Field(
        default=False, description="Whether OPTFORMER may say of running trials that they should stop."
    )
    belief: dict[ParameterName, Belief] = Field(
        default={},
        description='Where good values lie, by parameter: ["normal", mean, standard deviation], ["log_normal", median, '
        'factor], ["uniform", low, high], or weights by value, numbers and null as text. OPTFORMER follows it at '
        "first, then less and less.",
        examples=[{"learning_rate": ["log_normal", 0.001, 3.0], "optimizer": {"adam": 3.0, "sgd": 1.0}}],
    )
    cost: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="A metric that trials report beside those of the study, such as seconds: OPTFORMER prefers cheap "
        "trials at first.",
    )


class SuggestionRequest(_Request):
    """Asks for trials to run."""

    client_id: Name = Field(
        description="Who asks.  A client that asks again gets the trials that it has not completed; "
        "give each worker its own."
    )
    count: int = Field(default=1, ge=1, description="How many trials the client wants to have running.")


class MeasurementRequest(_Request):
    """How a running trial fares."""

    metrics: Metrics = Field(min_length=1)
    step: Integer = Field(default=0, ge=0)
    elapsed_seconds: float = Field(default=0.0, ge=0.0, le=1e12)


class Completion(_Request):
    """How a trial ended: `metrics`, or `infeasible_reason`, or neither, which makes its last measurement the final."""

    metrics: Metrics | None = Field(default=None, min_length=1)
    infeasible_reason: str | None = Field(
        default=None, min_length=1, max_length=10_000, description="Why the trial failed; it is not suggested again."
    )
    step: Integer = Field(default=0, ge=0)
    elapsed_seconds: float = Field(default=0.0, ge=0.0, le=1e12)


class NewTrial(_Request):
    """A trial of the caller's own: finished, with metrics, or without them one that is handed out next.

    Of the latter, OPTFORMER chooses the parameters that it lacks.
    """

    parameters: Parameters
    metrics: Metrics | None = Field(default=None, min_length=1)


class PredictionRequest(_Request):
    """Asks what the model expects of configurations, given the trials of the study."""

    candidates: list[Parameters] = Field(min_length=1, max_length=MOST_CANDIDATES)
    metric: str | None = Field(default=None, description="Which one, where the study has several.")


class Study(_Reply):
    """A study as the server keeps it."""

    owner: str
    name: str
    algorithm: str
    state: Literal["active", "inactive", "completed"]
    search_space: list[Parameter]
    metrics: list[Metric]
    constraints: list[Constraint]
    prior_studies: list[str] = Field(description="Names of the earlier studies whose trials OPTFORMER uses as well.")
    early_stopping: bool = Field(description="Whether OPTFORMER may say of running trials that they should stop.")
    belief: dict[str, list[str | float] | dict[str, float]] = Field(
        description="Where good values lie, as it was told."
    )
    cost: str | None = Field(description="The metric that trials cost.")


class Stopping(_Reply):
    should_stop: bool


class StudySummary(_Reply):
    name: str
    algorithm: str
    state: Literal["active", "inactive", "completed"]


class Studies(_Reply):
    studies: list[StudySummary]


class Measurement(_Reply):
    metrics: dict[str, float | None] = Field(description="null: no number was measured.")
    step: int
    elapsed_seconds: float


class Trial(_Reply):
    """A trial."""

    id: int
    status: Literal["requested", "active", "stopping", "completed", "infeasible"] = Field(
        description="requested: to be handed out next; active: a client runs it."
    )
    parameters: Parameters
    client_id: str | None = Field(description="Who runs or ran it.")
    final_measurement: Measurement | None
    measurements: list[Measurement] = Field(description="Reported while it ran.")
    infeasible_reason: str | None
    reasons: dict[str, float | str] = Field(
        description="Why OPTFORMER suggested it: source, checkpoint and, where the model was asked, acquisition_value, "
        "mean, quantile_05, quantile_50, quantile_95 (units of the objective) and infeasible (probability); of several "
        "objectives each followed by a colon and the metric. With constraints on outcomes: constraints_hold and, for "
        "each, holds: with the metric (probabilities), and a warning where they hardly can. With a belief its density, "
        "1 where it is highest, and with a cost the predicted one."
    )


class Trials(_Reply):
    trials: list[Trial]


class TrialPage(Trials):
    """Trials in the order of their ids."""

    next_after: int | None = Field(description="`after` of the next page; null: there is none.")


class Prediction(_Reply):
    """Of one candidate, in units of the objective, given that the trial does not fail."""

    mean: float
    stddev: float
    quantile_05: float
    quantile_50: float
    quantile_95: float
    infeasible: float = Field(description="Probability that the trial fails.")


class Predictions(_Reply):
    checkpoint: str = Field(description="Name of the model.")
    metric: str
    predictions: list[Prediction] = Field(description="In the order of the candidates.")


class Health(_Reply):
    status: Literal["serving"]


class Fault(_Reply):
    code: str = Field(description="Name of the kind of fault.", examples=["NOT_FOUND"])
    message: str = Field(description="One sentence for people.")


class ErrorReply(_Reply):
    """Every answer that is no success."""

    error: Fault
