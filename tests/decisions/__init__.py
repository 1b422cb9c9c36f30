"""Deciding suspensions: answers, policies, people, links and notifications."""
