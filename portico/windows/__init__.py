"""Windows: the client's policy as Group Policy takes it, and settings taken over from a Windows deployment."""
