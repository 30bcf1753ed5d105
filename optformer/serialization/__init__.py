"""Studies to tokens and back.

`tokens`, `batch`, `objective` and `vocabulary` need numpy, jax and sentencepiece only, so that the model and the
trainer run on machines without Vizier; `space`, `metadata` and `study` speak pyvizier.  Import the modules
themselves: this package imports none of them.
"""
