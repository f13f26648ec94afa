"""The verdict that every gate returns, and how it is shown and written."""
