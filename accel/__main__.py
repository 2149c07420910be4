"""`python -m accel` is the same program as the `accel` command."""

from accel.cli import main

if __name__ == "__main__":
    main()
