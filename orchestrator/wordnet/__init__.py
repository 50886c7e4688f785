"""The noun table that ships inside the package, and captions to synsets."""
