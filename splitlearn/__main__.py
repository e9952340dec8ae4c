"""``python -m splitlearn COMMAND``."""

from splitlearn.cli import main

if __name__ == "__main__":
    main()
