"""Check a composed configuration before a run: compatibility of choices, splits, schedules, and a forward probe."""
