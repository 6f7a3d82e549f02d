"""Augmentation of training films, and corruptions of validation films that imitate another hospital."""
