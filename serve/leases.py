"""Tracks when clients last called, so that the trials of dead clients are given to others."""

import threading
import time
from collections.abc import Callable


class Leases:
    """Time of the last call of every client; for clients that have not called, the start of the server."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic):
        """`seconds`: a client that has been silent for longer counts as dead; None: never."""
        if seconds is not None and not seconds > 0.0:
            raise ValueError(f"a lease must be longer than 0 seconds, not {seconds}")
        self._seconds, self._clock, self._started = seconds, clock, clock()
        self._heard: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def heard(self, study: str, client: str) -> None:
        """Records a call of a client."""
        if self._seconds is None:
            return
        with self._lock:
            now = self._clock()
            self._heard.pop((study, client), None)
            self._heard[study, client] = now  # the latest call is last
            while (first := next(iter(self._heard))) and self._heard[first] < now - self._seconds:
                del self._heard[first]  # expired: counts as dead, as clients that never called

    def expired(self, study: str, client: str) -> bool:
        """Whether a client counts as dead."""
        if self._seconds is None:
            return False
        with self._lock:
            return self._clock() - self._heard.get((study, client), self._started) > self._seconds
