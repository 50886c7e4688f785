"""Judges what a model has learned: zero-shot classification and linear probes on features of all ranks."""
