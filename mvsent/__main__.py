"""`python -m mvsent` is `mvsent`."""

from mvsent.cli import main

if __name__ == "__main__":
    main()
