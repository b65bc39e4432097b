"""The FLIP client."""
