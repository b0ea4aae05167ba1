"""What comes of a run: its directory, its events and summary, and all that is made of them later."""
