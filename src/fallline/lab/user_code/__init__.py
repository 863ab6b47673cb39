"""The user's files: imported by their place, hashed, and watched for changes."""
