"""Evaluation of a network or a file of predictions: curves, tables, result files, worst predictions."""
