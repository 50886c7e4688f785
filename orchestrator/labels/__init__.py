"""Annotations that are computed from a data set before training."""
