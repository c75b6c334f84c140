"""What a run looked like: its timeline and figures, as one HTML file."""
