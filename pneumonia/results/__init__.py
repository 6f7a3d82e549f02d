"""The results of commands as numbers, before they are drawn or logged."""
