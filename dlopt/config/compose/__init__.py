"""Compose a configuration: the groups and options on disk, Hydra's composition, overrides, and errors in plain words."""
