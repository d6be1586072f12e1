"""Asks through many client addresses without a pause, and counts who answers: silence, and answers given twice."""
