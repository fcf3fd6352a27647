"""A local cloud: Google Cloud wire protocols on loopback, with VMs that really run."""
