"""What the card of a checkpoint says about its training, as far as suggestions depend on it."""

from collections.abc import Mapping
from typing import Any, Final

LONGEST: Final = 152
"""Most trials from which objectives are predicted by default: with a few pending ones they fit into the padded size of
160 trials (`compiled.trials_bucket`)."""

_TIMES: Final = 3
"""Objectives are predicted from so many times as many trials as training histories have."""


def trained_length(card: Mapping[str, Any]) -> int:
    """Number of trials of the longest history in training; 128 if the card does not say, or says less than 8."""
    shape = (card.get("train_config") or {}).get("shape") or {}
    length = card.get("max_trials") or shape.get("trials")
    return int(length) if isinstance(length, int | float) and length >= 8 else 128


def predicted_from(card: Mapping[str, Any]) -> int:
    """Number of trials from which objectives are predicted; more than training histories have.

    The function head does not depend on the order of trials, and predicts better from more of them than in training.
    """
    length = trained_length(card)
    return max(length, min(_TIMES * length, LONGEST))


def trained_without_trials(card: Mapping[str, Any]) -> bool:
    """Whether some training studies had no known trial, so that the model can suggest the first one."""
    return _trained_at_a_rate(card, "blind_rate")


def trained_with_earlier_studies(card: Mapping[str, Any]) -> bool:
    """Whether some training studies had trials of earlier studies beside their own."""
    return _trained_at_a_rate(card, "earlier_rate")


def trained_with_curves(card: Mapping[str, Any]) -> bool:
    """Whether some training studies had learning curves."""
    return _trained_at_a_rate(card, "partial_rate")


def _trained_at_a_rate(card: Mapping[str, Any], rate: str) -> bool:
    config = card.get("train_config") or {}
    parts = (config.get("prior"), config.get("augmentation"))
    return any(((part or {}).get(rate) or 0.0) > 0.0 for part in parts)
