"""What maintainers run: draw the avatars, train their CLIP and their judge, build and measure the bundle."""
