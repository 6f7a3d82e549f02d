"""What each command does and logs: one MLflow run, or several under a parent."""
