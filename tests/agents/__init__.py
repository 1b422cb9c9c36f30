"""Agents, against a real HTTP server that speaks the models' APIs."""
