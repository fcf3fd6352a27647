"""A console for sweeps of Sinergym experiments on Google Cloud."""
