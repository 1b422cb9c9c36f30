"""The documentation, the packaging, and the layers are as they say."""
