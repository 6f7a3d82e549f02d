"""Exports a trained network as the files of a served model, and scores films on disk with such a model."""
