"""What measuring on a GPU needs beside measuring anywhere: its own clock, its state, its energy."""
