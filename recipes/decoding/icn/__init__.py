"""ICN: lists of right answers, begun with tokens that the explored answers have moved the query away from."""
