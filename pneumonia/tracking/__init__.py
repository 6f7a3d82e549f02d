"""Runs as folders, and MLflow, which is made to say the same."""
