"""The numbers that a command comes to, before anybody draws or logs them."""
