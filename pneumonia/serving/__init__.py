"""A trained network as the files that are served, and films on disk scored with a served model."""
