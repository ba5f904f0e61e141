"""Defaults that the commands show before anything heavy is imported, and that the library shares."""

TRUNCATION = 0.7
NEUTRAL = "a face"
INVERSION_STEPS = 40
