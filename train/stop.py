"""Signals that end a run early."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


class Stop:
    """Records SIGINT and SIGTERM for the training loop; a second signal interrupts immediately.

    Attributes:
      signal: number of the received signal, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0

    @classmethod
    @contextlib.contextmanager
    def on_signals(cls) -> Iterator["Stop"]:
        stop = cls()
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return

        def note(number: int, frame: object) -> None:
            if stop.signal:
                raise KeyboardInterrupt
            stop.signal = int(number)
            print(f"{signal.Signals(number).name}: ending at a checkpoint ...", file=sys.stderr)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
