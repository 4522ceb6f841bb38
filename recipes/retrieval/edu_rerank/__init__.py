"""EDU plans: many short plans of what a summary should say, a summary for each, and the best of them."""
