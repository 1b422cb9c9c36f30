"""The server: the REST API and the pages for people (extra `server`)."""
