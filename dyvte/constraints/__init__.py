"""Answers of a given form: grammars compiled for a vocabulary, and what a sequence may say next."""
