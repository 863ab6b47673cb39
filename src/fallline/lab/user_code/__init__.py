"""Import the user's files, hash them, and detect changes."""
