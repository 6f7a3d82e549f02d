"""`python -m pneumonia` is `pneumonia`."""

from pneumonia.cli import main

if __name__ == "__main__":
    main()
