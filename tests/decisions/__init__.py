"""Decisions on suspensions: answers, policies, people, links, notifications."""
