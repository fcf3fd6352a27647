"""Cloud Monitoring v3: metrics, alert policies, notification channels, what comes of them."""
