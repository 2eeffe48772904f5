"""Datasets: loading, downloading, batching and augmentation."""
