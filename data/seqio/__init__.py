"""The corpus as SeqIO tasks, for T5X and others; needs TensorFlow."""

from optformer.extras import require

for _library in ("seqio", "tensorflow"):
    require(_library, extra="data", user="a task of SeqIO")
