"""What works and what does not: twenty components, each with a state, causes and resolutions. Pure.

Whoever looks gives `Observations`; heuristics are functions of those; the rest is arithmetic about states and times.
"""
