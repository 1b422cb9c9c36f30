"""Names where users of Polos look for them."""
