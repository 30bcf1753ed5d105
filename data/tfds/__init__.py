"""Corpora as TensorFlow Datasets in ArrayRecord files: `study_corpus` writes them, `reading` reads them.

Needs the extra `data`.  Only writing imports TensorFlow.
"""
