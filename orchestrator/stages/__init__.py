"""Where an experiment runs: on guests, on processes of this host, or on engines alone; and what is brought there."""
