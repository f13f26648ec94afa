"""What every gate returns: one verdict, shown and written in the same way."""
