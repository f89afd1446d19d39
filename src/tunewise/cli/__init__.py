"""The command line: parse, call, print."""

from tunewise.cli.app import main as main
