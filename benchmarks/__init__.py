"""What polos-redis costs and how fast it is: `python -m benchmarks` (docs/benchmarks.md)."""
