"""What each command does and logs: one run of MLflow, or several under one."""
