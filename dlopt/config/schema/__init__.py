"""Say what a target, an option or a setting may be: signatures, value checks, documentation, static type hints."""
