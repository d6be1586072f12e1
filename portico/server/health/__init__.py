"""The server's half of health: looks every few seconds, asks the other servers, remembers, tells whoever is to be told.

What is seen goes into `portico.health`, which decides; nothing here judges.
"""
