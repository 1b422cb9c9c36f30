"""The server: the REST API, the approval page and the inbox (extra `server`)."""
