"""The invariants of the state, checked after every test, and the state machines that try to break them."""
