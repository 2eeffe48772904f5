"""Trains on so many devices and prints what came out, a line of JSON each; test_sharding.py runs it.

    JAX_NUM_CPU_DEVICES=8 python tests/on_devices.py float64 1,2,4,8 chapter,dense

As one of several processes it gets the coordinator's address, their number and its own as well.
"""

import json
import sys

import jax
import numpy as np
import optax
from flax import nnx

from jax_mnist import (
    Dataset,
    Splits,
    cnn,
    data_mesh,
    epoch_indices,
    evaluate,
    fit,
    fit_many,
    flax_mlp,
    from_flax,
    load,
    mlp,
    mnist_loss,
    replicate,
    shard_dataset,
    softmax_cross_entropy,
    take_batch,
)
from jax_mnist.training.mesh import to_local


def some_digits(count):
    train, valid = load("mnist")
    return Splits(train[:count], valid[:999])


def chapter():
    # 250 is no multiple of 4 or 8, nor are 12,396 images, 2,038 images and the last batch of 146.
    options = {"epochs": 3, "loss_fn": mnist_loss, "optimizer": optax.sgd(0.1), "batch_size": 250}
    return mlp((784, 30, 1)), load("mnist_sample"), options


def dense():
    options = {
        "epochs": 1,
        "loss_fn": softmax_cross_entropy,
        "optimizer": optax.sgd(0.1, momentum=0.9),
        "batch_size": 100,
    }
    return flax_mlp((784, 32, 10)), some_digits(5003), options


def convolutions():
    options = {"epochs": 1, "loss_fn": softmax_cross_entropy, "optimizer": optax.adam(1e-3), "batch_size": 50}
    return cnn((4, 8), hidden=(16,)), some_digits(1201), options


class Normed(nnx.Module):
    def __init__(self, rngs):
        dtype = jax.numpy.result_type(float)
        self.hidden = nnx.Linear(784, 32, param_dtype=dtype, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(32, param_dtype=dtype, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(32, 10, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def statistics():
    # The devices divide the batch; where they do not, what fills it up is part of its statistics.
    _, splits, options = dense()
    return from_flax(Normed), splits, options | {"batch_size": 200}


RUNS = {"chapter": chapter, "dense": dense, "convolutions": convolutions, "statistics": statistics}


def trained(make, mesh):
    model, splits, options = make()
    state, history = fit(jax.random.key(0), model, splits, mesh=mesh, **options)
    found = evaluate(model, state.params, splits.valid, options["loss_fn"], mesh=mesh)
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(to_local(state.params))]
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


def seen(mesh):
    """The labels, each image's own here, of a shuffled epoch's batches, from all devices of all processes."""
    labels = np.arange(1003, dtype=np.int32)
    dataset = shard_dataset(Dataset(np.zeros((1003, 28, 28), np.uint8), labels), mesh)

    @jax.jit
    def take(dataset, indices, mask):
        return jax.lax.map(lambda places: take_batch(dataset, *places)[1:], (indices, mask))

    found, mask = replicate(take(dataset, *epoch_indices(jax.random.key(0), 5, 1003, 50)), mesh)
    return sorted(np.asarray(to_local(found))[np.asarray(to_local(mask))].tolist())


SPECIAL = {"many": many, "seen": seen}


def main(counts, names):
    for count in counts:
        mesh = data_mesh(jax.devices()[:count])
        results = {name: SPECIAL[name](mesh) if name in SPECIAL else trained(RUNS[name], mesh) for name in names}
        if jax.process_index() == 0:
            print(json.dumps({"devices": count, **results}), flush=True)


if __name__ == "__main__":
    precision, device_counts, names, *processes = sys.argv[1:]
    jax.config.update("jax_enable_x64", precision == "float64")
    if processes:
        coordinator, count, number = processes
        jax.distributed.initialize(coordinator, int(count), int(number))
    main([int(count) for count in device_counts.split(",")], names.split(","))
