"""Benchmarks of speed and cost: `python -m benchmarks` (docs/benchmarks.md)."""
