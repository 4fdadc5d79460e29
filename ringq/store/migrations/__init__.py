"""Store: the steps from each released schema to the next."""
