"""Towers as torch modules, built from `transformers` configurations."""
