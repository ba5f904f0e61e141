"""`python -m clip2gan` is the `clip2gan` command."""

from clip2gan.cli import main

if __name__ == "__main__":
    main()
