"""The process: signals, environment, working folder, and messages."""
