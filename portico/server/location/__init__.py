"""The server's half of location: the pages' process, what it says, and the records in the corporate DNS."""
