"""Conversations: turns, tools, and rendering by a chat template."""
