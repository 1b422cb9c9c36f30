"""What a release may not change unnoticed: snapshots of everything that programs depend on."""
