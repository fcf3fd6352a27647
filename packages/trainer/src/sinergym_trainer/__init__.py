"""Train Sinergym agents with Stable-Baselines3, in a container or at home."""
