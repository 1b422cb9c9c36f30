"""Schedules and events that start workflows."""
