"""What tests run on: servers, workers, clients, and programs that stand in for people and other services."""
