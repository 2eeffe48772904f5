"""Trains on 1, 2, 4 and 8 devices, as many CPUs as JAX_NUM_CPU_DEVICES says, and prints what came out as JSON."""

import json
import sys

import jax
import numpy as np
import optax

from jax_mnist import Dataset, Splits, cnn, data_mesh, evaluate, fit, fit_many, flax_mlp, load, mlp, mnist_loss
from jax_mnist import softmax_cross_entropy as cross_entropy


def some_digits(count):
    train, valid = load("mnist")
    return Splits(Dataset(train.images[:count], train.labels[:count]), Dataset(valid.images[:999], valid.labels[:999]))


def chapter(mesh):
    # 250 is no multiple of 4 or 8, nor are 12,396 images, 2,038 images and the last batch of 146.
    options = {"epochs": 3, "loss_fn": mnist_loss, "optimizer": optax.sgd(0.1), "batch_size": 250}
    return mlp((784, 30, 1)), load("mnist_sample"), options


def dense(mesh):
    options = {"epochs": 1, "loss_fn": cross_entropy, "optimizer": optax.sgd(0.1, momentum=0.9), "batch_size": 100}
    return flax_mlp((784, 32, 10)), some_digits(5003), options


def convolutions(mesh):
    options = {"epochs": 1, "loss_fn": cross_entropy, "optimizer": optax.adam(1e-3), "batch_size": 50}
    return cnn((4, 8), hidden=(16,)), some_digits(1201), options


RUNS = {"chapter": chapter, "dense": dense, "convolutions": convolutions}


def trained(make, mesh):
    model, splits, options = make(mesh)
    state, history = fit(jax.random.key(0), model, splits, mesh=mesh, **options)
    found = evaluate(model, state.params, splits.valid, options["loss_fn"], mesh=mesh)
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]
    return {
        "losses": [*history.train_loss.tolist(), *history.valid_loss.tolist(), float(found.loss)],
        "right": round(float(history.accuracy[-1]) * len(splits.valid)),
        "count": int(found.count),
        "params": np.concatenate(leaves).tolist(),
        "whole": all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params)),
    }


def many(mesh):
    """Five members on as many devices as there are."""
    keys = jax.random.split(jax.random.key(0), 5)
    options = {"epochs": 1, "loss_fn": mnist_loss, "optimizer": optax.sgd(0.1)}
    _, history = fit_many(keys, mlp((784, 4, 1)), load("mnist_sample"), mesh=mesh, **options)
    return {"losses": history.train_loss[:, -1].tolist(), "right": [round(a * 2038) for a in history.accuracy[:, -1]]}


def main(counts, names):
    for count in counts:
        mesh = data_mesh(jax.devices()[:count])
        results = {name: many(mesh) if name == "many" else trained(RUNS[name], mesh) for name in names}
        if jax.process_index() == 0:
            print(json.dumps({"devices": count, **results}), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", sys.argv[1] == "float64")
    main([int(count) for count in sys.argv[2].split(",")], sys.argv[3].split(","))
