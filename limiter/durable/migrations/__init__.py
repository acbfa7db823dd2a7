"""Migrations of the database, applied by the program at start. It must not hold anything else."""
