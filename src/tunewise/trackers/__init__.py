"""Who follows a study while it is made: a tracker is given its events."""
