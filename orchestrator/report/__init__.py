"""The page that people read first: a comparison's verdict, numbers and pictures, in one file."""
