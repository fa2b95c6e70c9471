"""Attacks on a whole running life, outside the suite: `python -m tests.attack` runs them, `--list` names them."""
