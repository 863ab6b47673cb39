"""Where trials run: so far a pool of processes on this machine."""
