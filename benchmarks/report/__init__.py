"""`python -m benchmarks report`: the figures as a page with plots (docs/benchmarks.md)."""
