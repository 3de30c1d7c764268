"""The wire: request schema, translation to the engine's words, routes, replies, errors."""
