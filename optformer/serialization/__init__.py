"""Converts studies to tokens and back.

`tokens`, `batch`, `objective` and `vocabulary` need numpy, jax and sentencepiece only, so that the model and the
trainer run on machines without Vizier; `space`, `metadata` and `study` use pyvizier.  Import the modules directly: this
package imports none of them.
"""
