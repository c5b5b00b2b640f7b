"""Evaluation of models: metrics with intervals, the report on one model, the comparison of two."""
