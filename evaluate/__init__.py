"""Evaluation: how well the model predicts, imitates and optimizes.  Every claim about the model is measured here."""
