"""What is wrong with the machine, the stores and the home, and what of them can go."""
