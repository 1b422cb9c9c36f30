"""What tests run on: servers, workers, clients, and stand-ins for people and other services."""
