"""Scoring a network or a file of predictions: curves, tables, files of results, the worst predictions."""
