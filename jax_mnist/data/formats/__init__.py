"""File formats: IDX, image folders and TFDS."""
