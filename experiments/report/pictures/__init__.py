"""What the report draws; every function takes runs and returns a picture, or None without data."""
