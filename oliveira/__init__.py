"""Oliveira: a model's whole life in one Python program."""

__version__ = "0.1.0"
