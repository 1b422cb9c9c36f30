"""Stored values: packing, types, schemas."""
