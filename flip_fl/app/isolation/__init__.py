"""Researcher code in a process of its own, kept from everything that it was not handed."""
