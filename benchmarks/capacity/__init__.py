"""How many clients and how much traffic a core of a server carries, as Microsoft's capacity report has it."""
