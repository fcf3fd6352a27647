"""Who may do what: service accounts, policies, enabled services, secrets, and who calls."""
