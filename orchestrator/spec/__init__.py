"""What a user writes (Specs), what is resolved from it (the Plan), and how one becomes the other."""
