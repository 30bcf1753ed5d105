"""Corpora of known optimizers on known problems: problems x teachers x seeds, as studies.

Study i of a corpus is a function of the plan, the seed and i alone, so that a corpus is the same however many processes
make it, and in whatever pieces.
"""

from optformer.data.generation.plan import Plan, schedule
from optformer.data.generation.running import Summary, generate_corpus
from optformer.data.generation.study import generate_study

__all__ = ["Plan", "Summary", "generate_corpus", "generate_study", "schedule"]
