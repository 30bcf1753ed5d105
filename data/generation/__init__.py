"""Corpora of known optimizers on known problems: problems x teachers x seeds, as studies.

Study i of a corpus depends only on the plan, the seed and i.  So a corpus is the same for any number of processes, and
after any interruption.
"""

from optformer.data.generation.plan import Plan, schedule
from optformer.data.generation.running import Summary, generate_corpus
from optformer.data.generation.study import generate_study

__all__ = ["Plan", "Summary", "generate_corpus", "generate_study", "schedule"]
