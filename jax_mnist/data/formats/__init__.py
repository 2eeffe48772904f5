"""Readers and writers of the file formats: IDX, image folders, tables (npz, CSV) and TFDS."""
