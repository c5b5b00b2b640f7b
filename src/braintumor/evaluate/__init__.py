"""How good a model is: metrics with intervals, the report on one model, the comparison of two."""
