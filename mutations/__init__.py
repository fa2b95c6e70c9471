"""One-line mutations of the program, and the tests that must notice each: `python -m mutations`."""
