"""`python -m benchmarks peers`: the same work on polos-redis and on what people would use instead."""
