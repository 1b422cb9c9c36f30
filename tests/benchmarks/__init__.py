"""Benchmarks: their commands and reports. Figures are not judged."""
