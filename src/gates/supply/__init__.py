"""The supply chain: advisories, licences, and bills of materials of what is locked."""
