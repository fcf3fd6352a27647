"""Bring up an MLflow tracking server on Google Cloud, and take it down again."""
