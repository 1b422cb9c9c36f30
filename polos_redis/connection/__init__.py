"""A process's connection to one namespace: sessions, notices and tailed topics."""
