"""Turn a command line into a checked Experiment: compose, check, build, and reopen."""
