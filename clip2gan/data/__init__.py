"""What a mapper is trained on: pictures from folders and zips, and samples drawn from the generator."""
