"""Launch sweeps of experiments on Google Cloud, watch them, and clean up after them."""
