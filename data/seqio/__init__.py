"""The corpus as SeqIO tasks, for T5X and others; needs TensorFlow."""
