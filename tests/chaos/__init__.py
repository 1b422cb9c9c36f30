"""The chaos driver: every feature under load, faults of every kind, and an audit of what came of it.

`python -m tests.chaos --seconds 60 --seed 7`; `--help` lists the options.
"""
