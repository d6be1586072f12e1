"""The connectivity assistant: whether this computer is inside the corporate network."""
