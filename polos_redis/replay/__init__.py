"""Replays of recorded histories: a workflow's code runs against a journal, without effects, to see whether it
still takes the recorded path."""
