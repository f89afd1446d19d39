"""Runs as jobs of Slurm, each the worker command."""
