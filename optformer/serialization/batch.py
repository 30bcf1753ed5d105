"""What every trainer step, evaluation and suggestion feeds the model: a batch of serialized studies.

Notation: B studies, S metadata text tokens, D slots (parameters), T trials, P trials that carry policy loss,
Q = 1000 value tokens.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

# numpy on the host, jax on the device: the same fields, so one annotation for both.
Array = np.ndarray | jax.Array | Any


class StudyBatch(NamedTuple):
    """Serialized studies, padded to common shapes.  The same for both decoder layouts.

    Trials stand in order of time.  Padding: `text_segments == -1`, `slot_kinds == 0`, `trial_mask == False`; padded
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
      prefix_length: int32 [B], the trials that were known together when the objective was scaled: the first ones.
      order_free: bool [B].  True: trial order is unknown to the model (no relative positions) and the trials of the
        prefix see each other both ways, so that predictions do not depend on the order of the prefix.
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


class Legality(NamedTuple):
    """Which parameter tokens may be decoded, for a study with D slots in an order where parents come first.

    Attributes:
      levels: int32 [D], value tokens 0 ... levels - 1 are legal while the slot is active.
      parents: int32 [D], index of the slot's parent, -1 for roots.
      active_when: bool [D, Q], by the parent's value token: whether the slot is then active.  Rows of roots are True.

    An inactive slot has the one legal token INACTIVE, and a child of an inactive slot is inactive.
    """

    levels: Array
    parents: Array
    active_when: Array
