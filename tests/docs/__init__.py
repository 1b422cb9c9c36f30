"""The documentation, the packaging and the layers match the code."""
