"""How training studies with learning curves are made, whether they are synthetic (`data.prior.partial`) or logged
(`data.corpus.curves`): which trials are stopped, and which reports are used."""

from typing import Final

STOPPED: Final = (0.1, 0.9)
"""Range of the share of the known trials with reports that are stopped."""

WORSE_RATE: Final = 0.6
"""Share of studies in which mostly bad trials are stopped."""

LOOSENESS: Final = 0.3
"""Standard deviation of the noise on the order from bad to good, as a share of its length."""

RUNG_RATE: Final = 0.5
"""Share of studies in which trials are stopped and compared at a few common levels, as in successive halving."""

RUNGS: Final = 3
"""Number of these levels."""

RUNNING_RATE: Final = 0.5
"""Share of the rows to predict that are final values of stopped trials, as long as there are any."""

REPORT_RATE: Final = 0.1
"""Share of the rows to predict that are a report of the trial instead of its final value."""
