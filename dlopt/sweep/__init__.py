"""Searches: many runs of one space."""
