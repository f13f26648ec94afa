"""The parts of a release: commit messages, versions, the changelog and wheels."""
