"""What a release is made of: commit messages, versions, the changelog, wheels."""
