"""Import paths for programs written for Polos."""
