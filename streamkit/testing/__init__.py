"""What a user tests a topology with: the laws of Aggregates, a driver, contract checks."""
