"""How far each server is that is being added to the cluster."""
