"""Which samples of the faces generator serve what."""

FIRST_JUDGE_SEED = 10_240
"""Samples from this seed on train and test the judge, and nothing else."""
