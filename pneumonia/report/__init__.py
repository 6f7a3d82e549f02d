"""Reports for people: self-contained HTML pages, and the model card."""
