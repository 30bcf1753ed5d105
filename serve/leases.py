"""Which clients have been heard of lately, so that trials of those that have died are given to others."""

import threading
import time
from collections.abc import Callable


class Leases:
    """The last sign of life of every client; of those that have given none, the start of the server."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic):
        """`seconds`: after which a client that was not heard of is dead; None: never."""
        if seconds is not None and not seconds > 0.0:
            raise ValueError(f"a lease is more than 0 seconds, not {seconds}")
        self._seconds, self._clock, self._started = seconds, clock, clock()
        self._heard: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def heard(self, study: str, client: str) -> None:
        """A client has called."""
        if self._seconds is None:
            return
        with self._lock:
            now = self._clock()
            self._heard.pop((study, client), None)
            self._heard[study, client] = now  # the latest comes last
            while (first := next(iter(self._heard))) and self._heard[first] < now - self._seconds:
                del self._heard[first]  # dead, as those that were never heard of

    def expired(self, study: str, client: str) -> bool:
        """Whether a client counts as dead."""
        if self._seconds is None:
            return False
        with self._lock:
            return self._clock() - self._heard.get((study, client), self._started) > self._seconds
