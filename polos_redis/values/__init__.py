"""Values of users: encoding, types, validation, digests and display."""
