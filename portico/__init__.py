"""Portico: a clustered Remote Access role for Linux."""

__version__ = "0.1.0"
