"""Defaults that the commands show before anything heavy is imported, and that the library shares."""

MODEL = "avatars"  # the one that comes with the package
TRUNCATION = 0.7
SMALL = 128  # pixels along a side, up to which generators and pictures count as small
# Networks of LPIPS, by the names of their options; the first three are fetched, a package carries the others.
LPIPS = ("lpips-vgg", "lpips-alex", "lpips-squeeze", "stlpips", "stlpips-alex")
