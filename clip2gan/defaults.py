"""Defaults that the commands show before anything heavy is imported, and that the library shares."""

TRUNCATION = 0.7
