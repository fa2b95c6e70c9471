"""So that `python -m tests.attack` finds this folder: some packages install a `tests` of their own."""
