"""The scene data set: rendered solids with captions and exact ground truth, the embedded default."""
