"""Studies to the arrays that the model reads, and back.

Notation: S metadata tokens, D slots, T trials, P trials with policy loss, B studies of a batch.

A trial is written `p_1 ... p_D * y |`; the batch holds its parameter tokens and its objective token, and both decoder
layouts rebuild from these what they need.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32
from vizier import pyvizier as vz

from optformer.serialization import objective as objective_scaling
from optformer.serialization import tokens
from optformer.serialization.batch import Legality, StudyBatch
from optformer.serialization.errors import SerializationError
from optformer.serialization.metadata import DEFAULT_OPTIONS, MetadataOptions, metadata_segments, reorder, tokenize
from optformer.serialization.objective import Scaling
from optformer.serialization.space import OBSERVED, StudySchema


@dataclasses.dataclass(frozen=True)
class SerializedStudy:
    """One study, not padded.  The arrays are those of `StudyBatch` without the batch axis.

    Attributes:
      schema: slots of the search space, in its own order.
      scaling: of the objective.
      slot_order: int32 [D], column j of the tokens is `schema.slots[slot_order[j]]`.
    """

    text_tokens: Int32[np.ndarray, " text"]
    text_segments: Int32[np.ndarray, " text"]
    text_positions: Int32[np.ndarray, " text"]
    slot_kinds: Int32[np.ndarray, " slot"]
    slot_levels: Int32[np.ndarray, " slot"]
    slot_identities: Int32[np.ndarray, " slot"]
    x_tokens: Int32[np.ndarray, "trial slot"]
    y_tokens: Int32[np.ndarray, " trial"]
    trial_mask: Bool[np.ndarray, " trial"]
    prefix_length: int
    order_free: bool
    function_weights: Float32[np.ndarray, " trial"]
    policy_trials: Int32[np.ndarray, " policy"]
    policy_weights: Float32[np.ndarray, "policy slot"]
    schema: StudySchema
    scaling: Scaling
    slot_order: Int32[np.ndarray, " slot"]

    @property
    def legality(self) -> Legality:
        """Of the slots in the order of this study's columns."""
        return ordered_legality(self.schema, self.slot_order)

    def decode(self, x_tokens: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Parameters of one trial from tokens [D] in the order of this study's columns (see `StudySchema.decode`)."""
        return self.schema.decode(schema_order(x_tokens, self.slot_order))


def serialize_study(
    problem: vz.ProblemStatement | StudySchema,
    trials: Sequence[vz.Trial],
    *,
    algorithm: str | None = None,
    options: MetadataOptions = DEFAULT_OPTIONS,
    scaling: Scaling | None = None,
    prefix_length: int | None = None,
    objective: int = 0,
    objective_values: Sequence[float] | np.ndarray | None = None,
    order_free: bool = False,
    slot_order: Sequence[int] | np.ndarray | None = None,
    identities: Sequence[int] | np.ndarray | None = None,
    policy_trials: Sequence[int] | np.ndarray | None = None,
) -> SerializedStudy:
    """Serializes a study.

    Args:
      problem: or its schema, which is worth keeping where a study is serialized more than once.
      trials: in order of time.
      algorithm: name for the metadata; default: the problem's own entry.
      options: of the metadata text.
      scaling: of the objective; default: fitted on the finite values of the prefix.
      prefix_length: number of trials, from the first, that were known together; default: all.
      objective: index of the objective metric.
      objective_values: [T], larger is better, instead of that metric (scalarised objectives); NaN: the trial's status.
      order_free: see `StudyBatch`.
      slot_order: [D], a permutation of the slots with parents before children; default: pre-order.
      identities: [D], distinct numbers below `NUM_SLOT_IDENTITIES`, per column; default: 0, 1, ...
      policy_trials: [P], trials with policy loss; default: all.

    Returns:
      The study.  Function loss: weight 1 for bins and INFEASIBLE outside the prefix.  Policy loss: weight 1 for values,
      0 for INACTIVE and MISSING, and 0 for trials that were requested and not suggested.

    Raises:
      SerializationError: naming study, trial and parameter; see `StudySchema` and `StudySchema.encode`.
    """
    schema = problem if isinstance(problem, StudySchema) else StudySchema(problem)
    num_trials, num_slots = len(trials), len(schema)
    order = _checked_order(schema, slot_order)
    prefix = num_trials if prefix_length is None else prefix_length
    if not 0 <= prefix <= num_trials:
        raise SerializationError(f"prefix_length {prefix} is not within its {num_trials} trials", study=schema.study)

    values, statuses = schema.objectives(trials)
    y = _chosen_objective(schema, values, objective, objective_values, num_trials)
    known = np.isfinite(y)
    if scaling is None:
        fitted = objective_scaling.fit(y, known & (np.arange(num_trials) < prefix))
        scaling = Scaling(float(fitted.center), float(fitted.scale))
    statuses = np.where(statuses == OBSERVED, tokens.MISSING, statuses)
    y_tokens = np.where(known, objective_scaling.to_bins(np.where(known, y, 0.0), scaling), statuses).astype(np.int32)

    x_tokens = schema.encode(trials)[:, order]
    policy = np.arange(num_trials, dtype=np.int32) if policy_trials is None else np.asarray(policy_trials, np.int32)
    if policy.ndim != 1 or (policy.size and not 0 <= policy.min() <= policy.max() < num_trials):
        raise SerializationError(f"policy_trials must be indices of its {num_trials} trials", study=schema.study)
    if identities is None:
        identities = np.arange(num_slots) % tokens.NUM_SLOT_IDENTITIES
    slot_identities = np.asarray(identities, np.int32)
    if slot_identities.shape != (num_slots,):
        raise SerializationError(f"{slot_identities.shape} identities for {num_slots} slots", study=schema.study)

    segments = metadata_segments(schema, algorithm, options, objective)
    text = tokenize(reorder(segments, order))
    requested = np.array([trial.is_requested for trial in trials], bool)
    predicted = (y_tokens < tokens.NUM_LEVELS) | (y_tokens == tokens.INFEASIBLE)
    return SerializedStudy(
        **text._asdict(),
        slot_kinds=schema.slot_kinds[order],
        slot_levels=schema.slot_levels[order],
        slot_identities=slot_identities,
        x_tokens=x_tokens,
        y_tokens=y_tokens,
        trial_mask=np.ones(num_trials, bool),
        prefix_length=prefix,
        order_free=order_free,
        function_weights=(predicted & (np.arange(num_trials) >= prefix)).astype(np.float32),
        policy_trials=policy,
        policy_weights=((x_tokens[policy] < tokens.NUM_LEVELS) & ~requested[policy, None]).astype(np.float32),
        schema=schema,
        scaling=scaling,
        slot_order=order,
    )


def _checked_order(schema: StudySchema, slot_order: Sequence[int] | np.ndarray | None) -> np.ndarray:
    if slot_order is None:
        return np.arange(len(schema), dtype=np.int32)
    order = np.asarray(slot_order, np.int32)
    if not np.array_equal(np.sort(order), np.arange(len(schema))):
        raise SerializationError(
            f"slot_order {order.tolist()} is no permutation of {len(schema)} slots", study=schema.study
        )
    place = np.argsort(order)
    for slot in schema.slots:
        if slot.parent >= 0 and place[slot.parent] > place[slot.index]:
            raise SerializationError(
                "slot_order puts it before its parent, whose value decides whether it is active",
                study=schema.study,
                parameter=slot.path,
            )
    return order


def _chosen_objective(
    schema: StudySchema,
    values: Float[np.ndarray, "trial metric"],
    objective: int,
    objective_values: Sequence[float] | np.ndarray | None,
    num_trials: int,
) -> Float[np.ndarray, " trial"]:
    if objective_values is not None:
        y = np.asarray(objective_values, dtype=float)
        if y.shape != (num_trials,):
            raise SerializationError(
                f"objective_values has shape {y.shape} for {num_trials} trials", study=schema.study
            )
        return y
    if not 0 <= objective < len(schema.metrics):
        names = [metric.name for metric in schema.metrics]
        raise SerializationError(f"no objective metric {objective}; the problem has {names}", study=schema.study)
    return values[:, objective]


def ordered_legality(schema: StudySchema, slot_order: np.ndarray) -> Legality:
    """The schema's legality with its slots in another order (parents still first)."""
    levels, parents, active_when = (array[slot_order] for array in schema.legality)
    place = np.argsort(slot_order).astype(np.int32)
    moved = np.where(parents >= 0, place[np.maximum(parents, 0)], -1) if len(parents) else parents
    return Legality(levels, moved.astype(np.int32), active_when)


def schema_order(x_tokens: Sequence[int] | np.ndarray, slot_order: np.ndarray) -> np.ndarray:
    """Tokens [..., D] from a study's column order back to the order of the schema."""
    return np.asarray(x_tokens)[..., np.argsort(slot_order)]


# Batches.

_AXES: Final[dict[str, tuple[str, ...]]] = {
    "text_tokens": ("text",),
    "text_segments": ("text",),
    "text_positions": ("text",),
    "slot_kinds": ("slots",),
    "slot_levels": ("slots",),
    "slot_identities": ("slots",),
    "x_tokens": ("trials", "slots"),
    "y_tokens": ("trials",),
    "trial_mask": ("trials",),
    "prefix_length": (),
    "order_free": (),
    "function_weights": ("trials",),
    "policy_trials": ("policy_trials",),
    "policy_weights": ("policy_trials", "slots"),
}
_PADDING: Final = {"text_segments": -1, "x_tokens": tokens.PAD, "y_tokens": tokens.PAD}
_DTYPES: Final = {
    "trial_mask": np.bool_,
    "order_free": np.bool_,
    "function_weights": np.float32,
    "policy_weights": np.float32,
}


def collate(
    studies: Sequence[SerializedStudy],
    *,
    trials: int | None = None,
    slots: int | None = None,
    text: int | None = None,
    policy_trials: int | None = None,
) -> StudyBatch:
    """Pads studies to common sizes and stacks them (numpy arrays).

    Args:
      studies: at least one.
      trials: T; sizes default to the largest of the studies.
      slots: D.
      text: S.
      policy_trials: P.

    Raises:
      SerializationError: naming the study that does not fit.
    """
    if not studies:
        raise ValueError("no studies to collate")
    sizes = {"trials": trials, "slots": slots, "text": text, "policy_trials": policy_trials}
    counts = {
        "trials": [len(study.y_tokens) for study in studies],
        "slots": [len(study.slot_kinds) for study in studies],
        "text": [len(study.text_tokens) for study in studies],
        "policy_trials": [len(study.policy_trials) for study in studies],
    }
    shape = {}
    for axis, size in sizes.items():
        largest = max(counts[axis])
        if size is not None and size < largest:
            study = studies[counts[axis].index(largest)].schema.study
            raise SerializationError(f"{largest} {axis.replace('_', ' ')} do not fit into {axis}={size}", study=study)
        shape[axis] = largest if size is None else size

    def stack(field: str) -> np.ndarray:
        axes = tuple(shape[axis] for axis in _AXES[field])
        stacked: np.ndarray = np.full((len(studies), *axes), _PADDING.get(field, 0), _DTYPES.get(field, np.int32))
        for row, study in zip(stacked, studies, strict=True) if axes else ():
            array = getattr(study, field)
            row[tuple(slice(size) for size in array.shape)] = array
        if not axes:
            stacked[:] = [getattr(study, field) for study in studies]
        return stacked

    return StudyBatch(*(stack(field) for field in StudyBatch._fields))


# The flat sequence, for golden tables and round trips.


class ParsedTrial(NamedTuple):
    """A trial read back from tokens: external parameter values, and the objective's bin or status token."""

    parameters: dict[str, Any]
    objective: int


def flat_tokens(study: SerializedStudy) -> Int32[np.ndarray, " sequence"]:
    """`p_1 ... p_D * y |`, trial after trial: T (D + 3) tokens."""
    column = np.ones((len(study.y_tokens), 1), np.int32)
    rows = [study.x_tokens, tokens.STAR * column, study.y_tokens[:, None], tokens.BAR * column]
    return np.concatenate(rows, axis=1, dtype=np.int32).ravel()


def token_names(study: SerializedStudy) -> list[str]:
    """The flat sequence as written in golden tables: `<831>`, `*`, `INFEASIBLE`, `|`."""
    return [tokens.token_name(token) for token in flat_tokens(study).tolist()]


def parse(
    sequence: Sequence[int] | np.ndarray, schema: StudySchema, slot_order: Sequence[int] | np.ndarray | None = None
) -> list[ParsedTrial]:
    """Reads a flat sequence back.

    Raises:
      SerializationError: naming the study and the trial's position, from 0, if a trial is incomplete or not legal.
    """
    order = _checked_order(schema, slot_order)
    slots, period = len(schema), len(schema) + 3
    flat = np.asarray(sequence, np.int32).ravel()
    if len(flat) % period:
        raise SerializationError(f"{len(flat)} tokens are no whole trials of {period}", study=schema.study)
    parsed = []
    for index, row in enumerate(flat.reshape(-1, period)):
        y = int(row[slots + 1])
        reason = None
        if row[slots] != tokens.STAR or row[slots + 2] != tokens.BAR:
            reason = "separators `*` and `|` are not in their places"
        elif not 0 <= y < tokens.NUM_LEVELS and y not in (tokens.INFEASIBLE, tokens.PENDING, tokens.MISSING):
            reason = f"{y} is no objective token"
        if reason:
            raise SerializationError(reason, study=schema.study, trial=f"trial at position {index}")
        try:
            parameters = schema.decode(schema_order(row[:slots], order))
        except SerializationError as error:
            raise SerializationError(
                error.reason, study=schema.study, trial=f"trial at position {index}", parameter=error.parameter
            ) from error
        parsed.append(ParsedTrial(parameters, y))
    return parsed
