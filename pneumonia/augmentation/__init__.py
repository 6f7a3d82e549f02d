"""What is done to films while training, and to validation films that stand for another hospital."""
