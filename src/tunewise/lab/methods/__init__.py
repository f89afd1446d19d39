"""Ways to tune. A method never changes the loop."""
