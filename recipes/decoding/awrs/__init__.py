"""Text under a constraint, in particles whose weights undo the bias of constraining token by token."""
