"""Training loops of this package."""
