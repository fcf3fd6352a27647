"""Cloud Storage: buckets and objects on disk, and the JSON interface to them."""
