"""Transition technologies, the control half: the addressing plan, IP-HTTPS."""
