"""Train on the given numbers of devices and print the results, one line of JSON each; test_sharding.py runs it.

    JAX_NUM_CPU_DEVICES=8 python tests/on_devices.py float64 1,2,4,8 chapter,dense

As one of several processes it also gets the coordinator's address, their number and its own.
"""

import json
import sys

import hlo
import jax
import numpy as np
import optax
from flax import nnx

from jax_mnist import (
    Dataset,
    Learner,
    Splits,
    cnn,
    data_mesh,
    evaluate,
    fit,
    fit_many,
    flax_mlp,
    from_flax,
    init_state,
    load,
    mlp,
    mnist_loss,
    random_shift,
    softmax_cross_entropy,
    train_epoch,
)
from jax_mnist.data import epoch_indices, take_batch
from jax_mnist.training import replicate, to_local


def some_digits(count):
    train, valid = load("mnist")
    return Splits(train[:count], valid[:999])


def chapter():
    # 250 is not a multiple of 4 or 8, nor are 12,396 images, 2,038 images and the last batch of 146.
    return Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1), batch_size=250), load("mnist_sample"), 3


def dense():
    optimizer = optax.sgd(0.1, momentum=0.9)
    learner = Learner(flax_mlp((784, 32, 10)), softmax_cross_entropy, optimizer, batch_size=100)
    return learner, some_digits(5003), 1


def augmented():
    learner, splits, epochs = dense()
    return learner._replace(augment=random_shift, batch_size=104), splits, epochs


def convolutions():
    learner = Learner(cnn((4, 8), hidden=(16,)), softmax_cross_entropy, optax.adam(1e-3), batch_size=56)
    return learner, some_digits(1201), 1


def line_search():
    learner, splits, epochs = chapter()
    return learner._replace(optimizer=optax.lbfgs(), batch_size=256), splits, epochs


class Normed(nnx.Module):
    def __init__(self, rngs):
        dtype = jax.numpy.result_type(float)
        self.hidden = nnx.Linear(784, 32, param_dtype=dtype, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(32, param_dtype=dtype, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(32, 10, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def statistics():
    # The devices divide the batch; if they did not, its padding would be part of the statistics.
    learner, splits, epochs = dense()
    return learner._replace(model=from_flax(Normed), batch_size=200), splits, epochs


RUNS = {run.__name__: run for run in (chapter, dense, augmented, convolutions, line_search, statistics)}


def trained(make, mesh):
    learner, splits, epochs = make()
    state, history = fit(jax.random.key(0), learner, splits, epochs=epochs, mesh=mesh)
    found = evaluate(learner, state.params, splits.valid, mesh=mesh)
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(to_local(state.params))]
    return {
        "losses": [*history.train_loss.tolist(), *history.valid_loss.tolist(), float(found.loss)],
        "right": round(float(history.accuracy[-1]) * len(splits.valid)),
        "count": int(found.count),
        "params": np.concatenate(leaves).tolist(),
        "replicated": all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params)),
    }


def many(mesh):
    """Train five members on the mesh."""
    keys = jax.random.split(jax.random.key(0), 5)
    learner = Learner(mlp((784, 4, 1)), mnist_loss, optax.sgd(0.1))
    _, history = fit_many(keys, learner, load("mnist_sample"), epochs=1, mesh=mesh)
    return {"losses": history.train_loss[:, -1].tolist(), "right": [round(a * 2038) for a in history.accuracy[:, -1]]}


def programs(mesh):
    """Return the collectives of each computation of an epoch's program, and the rows of its matrix products."""
    found = {}
    for name, make in RUNS.items():
        learner, splits, _ = make()
        state, train = replicate((init_state(jax.random.key(0), learner), splits.train), mesh)
        program = hlo.computations(train_epoch.lower(learner, state, train, mesh=mesh).compile().as_text())
        products = [o.line for operations in program.values() for o in operations if o.opcode == "dot"]
        by_computation = {name: [o.line for o in ops if o.opcode in hlo.COLLECTIVES] for name, ops in program.items()}
        collectives = {name: lines for name, lines in by_computation.items() if lines}
        found[name] = {"collectives": collectives, "products": products, "batch_size": learner.batch_size}
    return found


def seen(mesh):
    """Return the labels, one for each image here, of a shuffled epoch's batches from all devices of all processes."""
    labels = np.arange(1003, dtype=np.int32)
    dataset = replicate(Dataset(np.zeros((1003, 28, 28), np.uint8), labels), mesh)

    @jax.jit
    def take(dataset):
        batch_indices = epoch_indices(jax.random.key(0), 5, 1003, 50, mesh=mesh)
        return jax.lax.map(lambda indices: take_batch(dataset, *indices)[1:], batch_indices)

    found, mask = to_local(replicate(take(dataset), mesh))
    return sorted(np.asarray(found)[np.asarray(mask)].tolist())


SPECIAL = {"many": many, "seen": seen, "programs": programs}


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
