"""Decisions on suspensions: answer policies, answers, people and the audit."""
