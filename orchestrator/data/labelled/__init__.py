"""Sets of labelled images by the layouts in which they lie: our shards, and the common public ones."""
