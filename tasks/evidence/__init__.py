"""What a session did: its manifest, its declared inputs, and laptop against CI."""
