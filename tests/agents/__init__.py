"""Agents, on a real HTTP server that speaks the models' API."""
