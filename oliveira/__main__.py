"""`python -m oliveira` works in a checkout."""

from oliveira.cli import main

if __name__ == "__main__":
    main()
