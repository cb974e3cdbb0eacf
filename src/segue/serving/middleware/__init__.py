"""ASGI middleware: authentication, request validation, timeouts, security headers."""
