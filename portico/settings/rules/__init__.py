"""The rules of `verify`, by subject. Each is a generator of problems over the settings and the facts; pure."""
