"""The process, its folders and its words to the terminal."""
