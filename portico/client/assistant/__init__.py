"""The connectivity assistant: where this computer is, whether its way to the intranet works, and why not.

`core` decides inside or outside from events; `chain` is what is looked at, in order, and `verdict` the status that
follows from it; `report` is what others are told.
"""
