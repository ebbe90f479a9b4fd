"""Claims of papers as data, the trainings that they need, and a verdict for each. Read ``claims.py`` first."""
