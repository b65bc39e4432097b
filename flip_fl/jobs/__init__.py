"""Watching jobs from outside their engine: what a killed process can no longer say of itself."""
