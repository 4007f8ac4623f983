"""A stand-in for the Hugging Face Hub on the loopback interface, for tests through the real client."""
