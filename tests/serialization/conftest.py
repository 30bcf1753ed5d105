"""Hypothesis without time limits per example: the machines that run these tests are shared and slow at times."""

from hypothesis import settings

settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
