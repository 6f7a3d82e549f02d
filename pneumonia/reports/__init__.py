"""Pages, figures and cards for people."""
