"""dlopt from Python. The names of `dlopt` itself are the public ones; these modules hold them."""
