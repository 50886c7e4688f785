"""Names and shapes that other programs give to the same weights; ours are those of `transformers`."""
