"""Conversations: turns, tools, and what a chat template makes of them."""
