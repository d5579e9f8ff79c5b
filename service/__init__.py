"""The program that answers: predictions and feedback over HTTP, on the champion of the registry."""
