"""Readers and writers of the file formats: IDX, image folders and TFDS."""
