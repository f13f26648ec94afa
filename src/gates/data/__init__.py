"""What a project's data is: its columns, and what was declared of it."""
