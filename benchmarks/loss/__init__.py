"""`python -m benchmarks loss`: what is lost of acknowledged calls when Redis crashes or fails over."""
