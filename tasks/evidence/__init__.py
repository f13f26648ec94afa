"""Records what a session did: its manifest, its declared inputs, and parity of laptop and CI."""
