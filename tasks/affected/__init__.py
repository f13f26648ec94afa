"""What a change needs: the plan, how long it takes, and whether all of it passed."""
