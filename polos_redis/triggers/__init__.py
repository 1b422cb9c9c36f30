"""Triggers: the schedules and event subscriptions that start workflows."""
