"""Values: stored bytes and back, their types, and how people see them."""
