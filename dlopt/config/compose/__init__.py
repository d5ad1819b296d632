"""Compose a configuration: groups and options on disk, overrides, Hydra, and errors in plain words."""
