"""Runs as folders on disk, which are sent to MLflow."""
