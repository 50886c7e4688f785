"""What a model is trained for: one small file per objective, and the table of them."""
