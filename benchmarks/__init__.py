"""Figures that we promise, measured: `make bench`. Never part of the tests."""
