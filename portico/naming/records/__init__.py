"""The deployment's records in the corporate DNS: which are wanted, which are there, what to change, how to write them.

`wanted`, `plan` and `render` are pure; `ask` and `update` talk to DNS servers; `keys` reads secrets.
"""
