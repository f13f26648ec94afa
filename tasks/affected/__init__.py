"""The jobs that a change needs: the plan, its duration, and whether all of it passed."""
