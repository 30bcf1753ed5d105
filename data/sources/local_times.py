"""Times that a store keeps as text without a time zone; interpreted as local times of this machine."""

import datetime


class LocalTimes:
    """Converts start and end of trials to ISO 8601 with the time zone.  Use one per study: it caches zones by hour."""

    def __init__(self) -> None:
        self._offsets: dict[str, str | None] = {}

    def __call__(self, start: str | None, complete: str | None) -> tuple[str | None, str | None, float]:
        """Both times (None if missing or invalid), and the seconds between them, at least 0."""
        if start and complete:
            try:
                begin, end = datetime.datetime.fromisoformat(start), datetime.datetime.fromisoformat(complete)
                offset = self._offset(start[:13])
                if offset is not None and offset == self._offset(complete[:13]) and begin.tzinfo is end.tzinfo is None:
                    seconds = max((end - begin).total_seconds(), 0.0)
                    return begin.isoformat() + offset, end.isoformat() + offset, seconds
            except (ValueError, TypeError, OverflowError, OSError):
                pass  # at least one is invalid: parse each separately
        first, last = _aware(start), _aware(complete)
        seconds = max((last - first).total_seconds(), 0.0) if first and last else 0.0
        return first.isoformat() if first else None, last.isoformat() if last else None, seconds

    def _offset(self, hour: str) -> str | None:
        """The offset, such as "+01:00" for "2026-01-01 12"; None if it changes within the hour.

        Asking the system for it takes longer than everything else in converting a time.
        """
        if hour not in self._offsets:
            offset = None
            if len(hour) == 13 and hour[10] in " T":
                first = datetime.datetime.fromisoformat(hour)
                last = first + datetime.timedelta(minutes=59, seconds=59, microseconds=999_999)
                offsets = {time.astimezone().isoformat().removeprefix(time.isoformat()) for time in (first, last)}
                offset = offsets.pop() if len(offsets) == 1 else None
            self._offsets[hour] = offset
        return self._offsets[hour]


def _aware(text: str | None) -> datetime.datetime | None:
    if not text:
        return None
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
