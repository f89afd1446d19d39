"""Runs on this machine: a server that has torch loaded and forks a process for every job."""
