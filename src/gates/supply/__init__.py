"""The supply chain: advisories, licences and bills of materials for the locked packages."""
