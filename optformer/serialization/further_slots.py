"""Extra slots after those of a search space, for facts about a trial other than its parameters.

They encode the earlier study of a trial (`prior_studies`) and the budget of stopped trials (`partial_trials`).  A model
reads them like parameters and needs no additional weights.  Trials of the current study, and candidates, have level 0.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from optformer.serialization import tokens
from optformer.serialization.batch import StudyRow


def with_slots(
    row: StudyRow, values: Int[np.ndarray, "trial further"], kind: int, levels: int, clause: Sequence[int]
) -> StudyRow:
    """Adds extra slots of one kind after the slots of a study; they have no policy loss.

    Args:
      row: a study.
      values: tokens of each trial in these slots.
      kind, levels: kind and number of levels of each slot.
      clause: metadata of each slot.
    """
    slots, count = row.x_tokens.shape[1], values.shape[1]
    segments = np.repeat(slots + 1 + np.arange(count), len(clause))
    free = np.setdiff1d(np.arange(tokens.NUM_SLOT_IDENTITIES), row.slot_identities)
    without_loss = np.zeros((len(row.policy_weights), count), np.float32)
    return row._replace(
        text_tokens=np.concatenate([row.text_tokens, np.tile(clause, count)]).astype(np.int32),
        text_segments=np.concatenate([row.text_segments, segments]).astype(np.int32),
        text_positions=np.concatenate([row.text_positions, np.tile(np.arange(len(clause)), count)]).astype(np.int32),
        slot_kinds=np.concatenate([row.slot_kinds, np.full(count, kind)]).astype(np.int32),
        slot_levels=np.concatenate([row.slot_levels, np.full(count, levels)]).astype(np.int32),
        slot_identities=np.concatenate([row.slot_identities, np.resize(free, count)]).astype(np.int32),
        x_tokens=np.concatenate([row.x_tokens, values], axis=1).astype(np.int32),
        policy_weights=np.concatenate([row.policy_weights, without_loss], axis=1),
    )


def behind(row: StudyRow, x_tokens: Int[np.ndarray, "trial slot"], y_tokens: Int[np.ndarray, " trial"]) -> StudyRow:
    """Puts other trials before those of the study; they are known and have no loss."""
    before = len(x_tokens)
    return row._replace(
        x_tokens=np.concatenate([x_tokens, row.x_tokens]).astype(np.int32),
        y_tokens=np.concatenate([y_tokens, row.y_tokens]).astype(np.int32),
        prefix_length=before + row.prefix_length,
        policy_trials=before + row.policy_trials,
    )
