"""Scores: the confusion matrix, the protocol and the report."""
