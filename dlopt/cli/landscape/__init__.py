"""The commands that draw losses as surfaces: `dlopt landscape`, `dlopt spectrum` and `dlopt race`."""
