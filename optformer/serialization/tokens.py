"""The decoder's token ids: one per value, one per status.

A trial is written `p_1 ... p_D * y |` (Chen et al. 2022, section 4.2), one token per value.  Ids are local to the
decoder; adding `Vocabulary.decoder_offset` places them after the text pieces if both share one table.
"""

from typing import Final

NUM_LEVELS: Final = 1000
"""Q: value tokens `<0>` ... `<999>` are the ids 0 ... Q - 1 themselves."""

INFEASIBLE: Final = 1000
"""Objective of a trial that ran and failed, and objective that is NaN or infinite."""
PENDING: Final = 1001
"""Objective of a trial that is still running."""
MISSING: Final = 1002
"""A value that was never reported: the objective of a stopped trial, or an unrecorded parameter."""
INACTIVE: Final = 1003
"""A conditional parameter whose parent has another value."""
NUM_OUTPUTS: Final = 1004
"""Number of tokens that the decoder can emit: values and statuses.  The others are inputs only."""

STAR: Final = 1004
"""`*`, between a trial's parameters and its objective."""
BAR: Final = 1005
"""`|`, the end of a trial."""
PAD: Final = 1006
"""Fills unused positions; also means "nothing chosen yet" at the start of decoding."""
DECODER_VOCABULARY: Final = 1008
"""Rows of the decoder's embedding table (padded to a multiple of 8)."""

STATUS_NAMES: Final = {INFEASIBLE: "INFEASIBLE", PENDING: "PENDING", MISSING: "MISSING", INACTIVE: "INACTIVE"}

# Kinds of slot (`StudyBatch.slot_kinds`).  A slot is one parameter at one place of the search-space tree.
NO_SLOT: Final = 0
CONTINUOUS: Final = 1
INTEGER: Final = 2
DISCRETE: Final = 3
CATEGORICAL: Final = 4
NUM_SLOT_KINDS: Final = 5

NUM_SLOT_IDENTITIES: Final = 64
"""Slot identities are drawn without replacement from this many per study; with more slots, they repeat."""


def token_name(token: int) -> str:
    """The token as written in golden tables: `<831>`, `*`, `|`, `INFEASIBLE`."""
    if 0 <= token < NUM_LEVELS:
        return f"<{token}>"
    if token in STATUS_NAMES:
        return STATUS_NAMES[token]
    return {STAR: "*", BAR: "|", PAD: "<pad>"}[token]
