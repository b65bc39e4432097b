"""The truth table: what goes wrong, when, on which engine, and how such a run ends."""
