"""The input of the model in training, evaluation and suggestion: a batch of serialized studies.

On the host, a batch is written with `blank_batch`, then `write_row` for each study.

Notation: B studies, S metadata text tokens, D slots (parameters), T trials, P trials that carry policy loss,
Q = 1000 value tokens.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from optformer.serialization import tokens

# numpy arrays on the host, jax arrays on the device, with the same annotations.
Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Padded sizes of a `StudyBatch`: one compiled training step per shape.

    Attributes:
      trials: T, trials per study.
      slots: D, parameters per study.
      text: S, metadata tokens per study.
      policy_trials: P, trials per study whose parameters carry policy loss.

    Raises:
      ValueError: A size is below 1, or `policy_trials` exceeds `trials`.
    """

    trials: int = 48
    slots: int = 8
    text: int = 128
    policy_trials: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"BatchShape.{field.name} is {getattr(self, field.name)}; it must be at least 1.")
        if self.policy_trials > self.trials:
            raise ValueError(
                f"BatchShape.policy_trials is {self.policy_trials}, more than the {self.trials} trials of a study; "
                "policy loss falls on distinct trials."
            )


class StudyBatch(NamedTuple):
    """Serialized studies, padded to common shapes.  The same for both decoder layouts.

    Trials are in order of time.  Padding: `text_segments == -1`, `slot_kinds == 0`, `trial_mask == False`; padded
    tokens are `PAD` (text: 0).

    Attributes:
      text_tokens: int32 [B, S], metadata as text ids.
      text_segments: int32 [B, S], 0 for the study's header, k + 1 for the clause of slot k, -1 for padding.
      text_positions: int32 [B, S], position of the token within its segment, from 0.
      slot_kinds: int32 [B, D], `tokens.CONTINUOUS` ... `tokens.CATEGORICAL`, 0 for padding.
      slot_levels: int32 [B, D], how many value tokens the slot uses: Q for continuous, else 2 ... Q; 0 for padding.
      slot_identities: int32 [B, D], distinct numbers below `tokens.NUM_SLOT_IDENTITIES`, drawn per study.
      x_tokens: int32 [B, T, D], parameter values (below `slot_levels`) or INACTIVE or MISSING.
      y_tokens: int32 [B, T], objective bins (larger is better) or INFEASIBLE, PENDING, MISSING.
      trial_mask: bool [B, T].
      prefix_length: int32 [B], number of first trials on which the objective was scaled.  0: no trial is known, and
        each objective is predicted from its own parameters only, on the scale of the whole study.
      order_free: bool [B].  True: the order of trials is hidden (no relative positions), and the trials of the prefix
        attend to each other in both directions, so that predictions do not depend on the order of the prefix.
      function_weights: float32 [B, T], loss weight of each objective token (0 inside the prefix and for padding).
      policy_trials: int32 [B, P], indices of the trials whose parameters carry policy loss.
      policy_weights: float32 [B, P, D], loss weight of each of their parameter tokens (0: INACTIVE, MISSING, padding).
    """

    text_tokens: Array
    text_segments: Array
    text_positions: Array
    slot_kinds: Array
    slot_levels: Array
    slot_identities: Array
    x_tokens: Array
    y_tokens: Array
    trial_mask: Array
    prefix_length: Array
    order_free: Array
    function_weights: Array
    policy_trials: Array
    policy_weights: Array


class StudyRow(NamedTuple):
    """One study, not padded: numpy arrays as in `StudyBatch`, without the batch axis.

    `y_tokens` may hold only statuses, which the caller then replaces in the batch by `objective.objective_tokens`; that
    scales all studies of a batch at once and also gives the function weights.
    """

    text_tokens: np.ndarray
    text_segments: np.ndarray
    text_positions: np.ndarray
    slot_kinds: np.ndarray
    slot_levels: np.ndarray
    slot_identities: np.ndarray
    x_tokens: np.ndarray
    y_tokens: np.ndarray
    prefix_length: int
    order_free: bool
    policy_trials: np.ndarray
    policy_weights: np.ndarray


def blank_batch(studies: int, shape: BatchShape) -> StudyBatch:
    """A batch that consists of padding (numpy arrays)."""
    b, t, d, s, p = studies, shape.trials, shape.slots, shape.text, shape.policy_trials
    return StudyBatch(
        text_tokens=np.zeros((b, s), np.int32),
        text_segments=np.full((b, s), -1, np.int32),
        text_positions=np.zeros((b, s), np.int32),
        slot_kinds=np.zeros((b, d), np.int32),
        slot_levels=np.zeros((b, d), np.int32),
        slot_identities=np.zeros((b, d), np.int32),
        x_tokens=np.full((b, t, d), tokens.PAD, np.int32),
        y_tokens=np.full((b, t), tokens.PAD, np.int32),
        trial_mask=np.zeros((b, t), bool),
        prefix_length=np.zeros(b, np.int32),
        order_free=np.zeros(b, bool),
        function_weights=np.zeros((b, t), np.float32),
        policy_trials=np.zeros((b, p), np.int32),
        policy_weights=np.zeros((b, p, d), np.float32),
    )


def write_row(batch: StudyBatch, row: int, study: StudyRow) -> None:
    """Writes a study into row `row` of a blank batch, except its function weights.

    Raises:
      ValueError: the study has more trials, slots, text or policy trials than the batch.
    """
    trials, slots = study.x_tokens.shape
    text, policy = len(study.text_tokens), len(study.policy_trials)
    batch.text_tokens[row, :text] = study.text_tokens
    batch.text_segments[row, :text] = study.text_segments
    batch.text_positions[row, :text] = study.text_positions
    batch.slot_kinds[row, :slots] = study.slot_kinds
    batch.slot_levels[row, :slots] = study.slot_levels
    batch.slot_identities[row, :slots] = study.slot_identities
    batch.x_tokens[row, :trials, :slots] = study.x_tokens
    batch.y_tokens[row, :trials] = study.y_tokens
    batch.trial_mask[row, :trials] = True
    batch.prefix_length[row] = study.prefix_length
    batch.order_free[row] = study.order_free
    batch.policy_trials[row, :policy] = study.policy_trials
    batch.policy_weights[row, :policy, :slots] = study.policy_weights


class Legality(NamedTuple):
    """Which parameter tokens may be decoded, for a study with D slots; parents come before their children.

    An inactive slot only allows the token INACTIVE, and children of an inactive slot are inactive.

    Attributes:
      levels: int32 [D], value tokens 0 ... levels - 1 are legal if the slot is active.
      parents: int32 [D], index of the slot's parent, -1 for roots.
      active_when: bool [D, Q], whether the slot is active, by the parent's value token.  Rows of roots are True.
    """

    levels: Array
    parents: Array
    active_when: Array
