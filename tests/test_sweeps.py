import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from marks import slow

from jax_mnist import (
    Dataset,
    History,
    Learner,
    Model,
    Splits,
    TrainState,
    accuracy,
    evaluate,
    fit,
    fit_many,
    flax_mlp,
    init_state,
    linear,
    make_batch,
    mlp,
    mnist_loss,
    softmax_cross_entropy,
)
from jax_mnist.analysis import ensemble_labels, summarize
from jax_mnist.training.sweeps import _chunk_indices, evaluate_many, init_many, train_many

MODEL = mlp((784, 16, 1))
# Shared, so that each compiles once. Of the 30 training images the last batch is short.
SGD = Learner(MODEL, mnist_loss, optax.sgd(0.1), batch_size=8)
MOMENTUM = SGD._replace(optimizer=optax.sgd(0.1, momentum=0.9))
INJECTED = SGD._replace(optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))


def seeds(*numbers):
    return jax.vmap(jax.random.key)(jnp.array(numbers))


def member(stacked, i):
    return jax.tree.map(lambda leaf: leaf[i], stacked)


def assert_member_is(one, stacked, history, i):
    """Compare member i of many with a fit: its whole state, and its records without the seconds."""
    state, record = one
    many = member(stacked._replace(key=jax.random.key_data(stacked.key)), i)
    state = state._replace(key=jax.random.key_data(state.key))
    assert jax.tree.structure(many) == jax.tree.structure(state)
    for a, b in zip(*map(jax.tree.leaves, (many, state)), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert history.epoch[i].tolist() == record.epoch.tolist() == [1, 2, 3]
    for name in ("train_loss", "valid_loss", "accuracy"):
        np.testing.assert_allclose(getattr(history, name)[i], getattr(record, name), rtol=1e-4, atol=1e-6)


FLAX_ADAM = SGD._replace(model=flax_mlp((784, 16, 1)), optimizer=optax.adam(1e-2))


@pytest.mark.parametrize("learner", [
    MOMENTUM, *(slow(learner) for learner in (SGD._replace(model=linear()), FLAX_ADAM)),
], ids=["mlp_momentum", "linear_sgd", "flax_mlp_adam"])  # fmt: skip
def test_each_member_is_the_fit_from_its_seed(tiny, learner):
    many = fit_many(seeds(0, 5, 9), learner, tiny, epochs=3)
    for i, seed in enumerate((0, 5, 9)):
        assert_member_is(fit(jax.random.key(seed), learner, tiny, epochs=3), *many, i)


@pytest.mark.slow
def test_each_member_is_the_fit_without_shuffling(tiny):
    learner = SGD._replace(shuffle=False)
    many = fit_many(seeds(0, 1), learner, tiny, epochs=3)
    assert_member_is(fit(jax.random.key(1), learner, tiny, epochs=3), *many, 1)


@pytest.mark.slow
def test_same_order_is_that_of_the_first_key(tiny):
    many = fit_many(seeds(0, 1, 2), SGD, tiny, epochs=3, same_order=True)
    order = np.asarray(jax.random.key_data(init_state(jax.random.key(0), SGD).key))
    for seed in range(3):
        state = init_state(jax.random.key(seed), SGD)._replace(key=jax.random.wrap_key_data(jnp.array(order)))
        assert_member_is(fit(None, SGD, tiny, epochs=3, state=state), *many, seed)
    own, _ = fit_many(seeds(0, 1, 2), SGD, tiny, epochs=3)
    differs = jnp.abs(own.params[0].weights - many[0].params[0].weights).max(axis=(1, 2)) > 1e-4
    assert differs.tolist() == [False, True, True]


@pytest.mark.slow
def test_each_learning_rate_is_the_fit_at_that_rate(tiny, x64):
    """In float64, since Adam divides small gradients by themselves, which makes their rounding large."""
    rates, adam = [0.01, 0.1], optax.inject_hyperparams(optax.adam)
    learner = SGD._replace(optimizer=adam(learning_rate=0.5))
    many = fit_many(jax.random.key(3), learner, tiny, epochs=3, learning_rates=rates)
    for i, rate in enumerate(rates):
        one = fit(jax.random.key(3), SGD._replace(optimizer=adam(learning_rate=rate)), tiny, epochs=3)
        assert_member_is(one, *many, i)
        plain, _ = fit(jax.random.key(3), SGD._replace(optimizer=optax.adam(rate)), tiny, epochs=3)
        for state in (one[0], plain):
            np.testing.assert_allclose(many[0].params[0].weights[i], state.params[0].weights, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_schedule_is_mapped_by_its_peak(tiny):
    shape = optax.cosine_decay_schedule(1.0, 12)

    def make(learning_rate):
        return optax.sgd(lambda step: learning_rate * shape(step), momentum=0.9)

    learner = SGD._replace(optimizer=optax.inject_hyperparams(make)(learning_rate=0.1))
    states, history = fit_many(jax.random.key(3), learner, tiny, epochs=3, learning_rates=[0.05, 0.5])
    for i, rate in enumerate((0.05, 0.5)):
        state, record = fit(jax.random.key(3), SGD._replace(optimizer=make(rate)), tiny, epochs=3)
        jax.tree.map(lambda many, one, i=i: np.testing.assert_allclose(many[i], one, rtol=1e-4, atol=1e-6),
                     states.params, state.params)  # fmt: skip
        np.testing.assert_allclose(history.valid_loss[i], record.valid_loss, rtol=1e-4)


@pytest.mark.slow
def test_seeds_and_learning_rates_together(tiny):
    pairs = [(0, 0.01), (1, 0.1), (1, 0.01)]
    numbers, rates = zip(*pairs, strict=True)
    many = fit_many(seeds(*numbers), INJECTED, tiny, epochs=3, learning_rates=np.array(rates))
    for i, (seed, rate) in enumerate(pairs):
        learner = SGD._replace(optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=rate))
        assert_member_is(fit(jax.random.key(seed), learner, tiny, epochs=3), *many, i)


@pytest.mark.slow
@pytest.mark.parametrize("same_order", [False, True])
def test_results_do_not_depend_on_the_chunk(tiny, same_order):
    whole, history = fit_many(seeds(*range(5)), SGD, tiny, epochs=3, chunk=5, same_order=same_order)
    for chunk in (3, 100):
        states, records = fit_many(seeds(*range(5)), SGD, tiny, epochs=3, chunk=chunk, same_order=same_order)
        np.testing.assert_array_equal(jax.random.key_data(states.key), jax.random.key_data(whole.key))
        for a, b in zip(jax.tree.leaves(states.params), jax.tree.leaves(whole.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(records.valid_loss, history.valid_loss, rtol=1e-5)


@pytest.mark.parametrize(("count", "chunk", "shape"), [
    (64, 64, (1, 64)), (65, 64, (2, 33)), (100, 64, (2, 50)), (7, 3, (3, 3)), (3, 100, (1, 3)), (4, 1, (4, 1)),
])  # fmt: skip
def test_chunks_have_the_same_size(count, chunk, shape):
    indices = _chunk_indices(count, chunk)
    assert indices.shape == shape
    assert indices.ravel()[:count].tolist() == list(range(count))
    assert (indices.ravel()[count:] == count - 1).all()
    assert indices.size - count < len(indices)


@pytest.mark.slow
def test_all_chunks_share_one_trace(tiny):
    shapes = []

    def counting(params, x):
        shapes.append(x.shape)
        return linear().apply(params, x)

    fit_many(seeds(*range(5)), SGD._replace(model=Model(linear().init, counting)), tiny, epochs=3, chunk=2)
    # There are three chunks. The other traces are of the check that all fits together, at most one for each split.
    assert shapes[-2:] == [(8, 784), (1024, 784)]
    assert shapes.count((1024, 784)) == 1
    assert shapes.count((8, 784)) <= 3


def temporary_bytes(splits, count, same_order):
    """Return the memory in bytes that an epoch of `count` members needs in addition to its inputs and outputs."""
    states = init_many(seeds(*range(count)), None, jax.random.key(0), learner=SGD, same_order=same_order)
    compiled = train_many.lower(SGD, states, splits.train, same_order=same_order).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_is_that_of_a_chunk_and_the_same_order_needs_one_batch(tiny, monkeypatch):
    sizes = []

    class Watched:
        def __getattr__(self, name):
            return getattr(train_many, name)

        def __call__(self, learner, states, *arguments, **named):
            sizes.append({leaf.shape[0] for leaf in jax.tree.leaves(states)})
            return train_many(learner, states, *arguments, **named)

    monkeypatch.setattr("jax_mnist.training.sweeps.train_many", Watched())
    fit_many(seeds(*range(9)), SGD, tiny, epochs=3, chunk=4)
    assert sizes == [{3}] * 9  # three chunks of three, not 4, 4 and 1; three epochs each
    batch = 8 * 784 * 4
    own, shared = (temporary_bytes(tiny, 16, same_order) for same_order in (False, True))
    assert own > 16 * batch
    assert own - shared > 8 * batch


def test_states_and_history_are_stacked(tiny):
    states, history = fit_many(seeds(0, 1, 2), MOMENTUM, tiny, epochs=3, chunk=3)
    assert isinstance(states, TrainState)
    assert isinstance(history, History)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(states)} == {3}
    assert states.params[0].weights.shape == states.opt_state[0].trace[0].weights.shape == (3, 784, 16)
    assert states.epoch.tolist() == [3, 3, 3]
    assert {column.shape for column in history} == {(3, 3)}
    assert (history.seconds > 0).all()
    assert (history.evaluation_seconds > 0).all()
    for i in range(3):
        metrics = evaluate(MOMENTUM, member(states.params, i), tiny.valid)
        assert history.accuracy[i, -1] == metrics.accuracy
        assert history.valid_loss[i, -1] == pytest.approx(float(metrics.loss), rel=1e-5)


@pytest.mark.slow
def test_no_epochs_return_the_initial_states(tiny):
    states, history = fit_many(seeds(0, 1, 2), SGD, tiny, epochs=0)
    assert history.accuracy.shape == (3, 0)
    start = init_state(jax.random.key(1), SGD).params
    np.testing.assert_allclose(states.params[0].weights[1], start[0].weights, rtol=1e-6)


@pytest.mark.slow
def test_fit_continues_a_member(tiny):
    half, _ = fit_many(seeds(0, 1, 2), SGD, tiny, epochs=1)
    whole = fit_many(seeds(0, 1, 2), SGD, tiny, epochs=3)
    rest, _ = fit(None, SGD, tiny, epochs=3, state=member(half, 1))
    np.testing.assert_allclose(rest.params[0].weights, whole[0].params[0].weights[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_float64_under_strict_promotion(tiny, x64, strict):
    learner = SGD._replace(optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))  # a float64 one
    states, _ = fit_many(jax.random.key(0), learner, tiny, epochs=3, learning_rates=[0.1, 0.2])
    assert {leaf.dtype for leaf in jax.tree.leaves(states.params)} == {jnp.dtype("float64")}


def test_fit_many_deletes_no_array_of_its_caller(tiny):
    on_device = jax.device_put(tiny)
    keys = seeds(0, 1, 2)
    fit_many(keys, MOMENTUM, on_device, epochs=3)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((keys, on_device)))


RATES = {"learner": INJECTED, "learning_rates": [0.1, 0.2]}
SCHEDULED = SGD._replace(optimizer=optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.1, 12)))
TWICE = SGD._replace(optimizer=optax.chain(INJECTED.optimizer, INJECTED.optimizer))
WRONG = {
    r"keys must be .*key<fry> \[0\]": {"keys": seeds(0)[:0]},
    r"keys must be .*uint32 \[2\]": {"keys": jax.random.PRNGKey(0)},
    r"chunk must be .* 0": {"chunk": 0},
    r"batch_size must be .* -1": {"learner": SGD._replace(batch_size=-1)},
    r"optimizer.*AttributeError": {"learner": SGD._replace(optimizer=optax.sgd)},
    r"learning_rates must be \[k\].*\[3\] for keys \[2\]": RATES | {"learning_rates": [0.1, 0.2, 0.3]},
    r"learning_rates must be \[k\].*\[0\]": RATES | {"learning_rates": []},
    r"labels must be in 0\.\.1 .* 0\.\.2": {"labels": [0, 1, 2]},
    r"rate must be a number, got a schedule.*make = lambda learning_rate": RATES | {"learner": SCHEDULED},
    r" 2 such states": RATES | {"learner": TWICE},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_that_do_not_fit_are_refused(tiny, message):
    arguments = {"keys": seeds(0, 1), "learner": SGD, "epochs": 3} | WRONG[message]
    if "labels" in arguments:
        labels = np.resize(np.array(arguments.pop("labels"), np.int32), 30)
        tiny = Splits(Dataset(tiny.train.images, labels), tiny.valid)
    with pytest.raises(ValueError, match=message):
        fit_many(jax.random.clone(arguments.pop("keys")), arguments.pop("learner"), tiny, **arguments)


@pytest.mark.parametrize("optimizer", [SGD.optimizer, optax.adam(0.1), optax.lbfgs()], ids=["sgd", "adam", "lbfgs"])
def test_learning_rates_without_inject_hyperparams_are_refused_with_the_line_to_write(tiny, optimizer):
    line = "optax.inject_hyperparams(make)(learning_rate=0.1)"
    with pytest.raises(ValueError, match=re.escape(line)):
        fit_many(seeds(0, 1), SGD._replace(optimizer=optimizer), tiny, epochs=3, learning_rates=[0.1, 0.2])


def known(columns):
    """Return a model whose logits are its parameters for every x: [b, c] for parameters [c]."""
    return Model(lambda key: jnp.zeros(columns), lambda params, x: jnp.broadcast_to(params, (len(x), columns)))


def test_ensemble_takes_the_mean_of_probabilities(tiny):
    """Two members slightly prefer 0 and one is sure of 1: a majority vote gives 0, the mean gives 1."""
    logits = jnp.log(jnp.array([0.4 / 0.6, 0.4 / 0.6, 0.99 / 0.01]))[:, None]
    labels = ensemble_labels(known(1), logits, tiny.valid)
    assert (labels.dtype, labels.tolist()) == (jnp.int32, [1] * 10)
    assert ensemble_labels(known(1), logits[:2], tiny.valid).tolist() == [0] * 10
    three = jnp.log(jnp.array([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.01, 0.01, 0.98]]))
    assert ensemble_labels(known(3), three, tiny.valid, batch_size=3).tolist() == [2] * 10
    assert ensemble_labels(known(3), three[:2], tiny.valid, batch_size=10).tolist() == [0] * 10


@pytest.mark.slow
def test_ensemble_of_one_is_that_member_and_of_many_the_mean_by_hand(tiny):
    states, _ = fit_many(seeds(0, 1, 2), SGD, tiny, epochs=1)
    batch = make_batch(tiny.valid.images, tiny.valid.labels)
    for i in range(3):
        one = ensemble_labels(MODEL, member(states.params, slice(i, i + 1)), tiny.valid, batch_size=4)
        logits = MODEL.apply(member(states.params, i), batch.x)
        assert float((one == batch.y).mean()) == pytest.approx(float(accuracy(logits, batch.y)))
    logits = np.stack([MODEL.apply(member(states.params, i), batch.x)[:, 0] for i in range(3)])
    expected = (1 / (1 + np.exp(-logits))).mean(axis=0) > 0.5
    assert ensemble_labels(MODEL, states.params, tiny.valid).tolist() == expected.astype(int).tolist()
    with pytest.raises(ValueError, match=r"batch_size must be .* 0"):
        ensemble_labels(MODEL, states.params, tiny.valid, batch_size=0)


def test_interval_is_that_of_scipy():
    values = [0.981, 0.984, 0.979, 0.983]
    mean, std, interval = summarize(values)
    assert (mean, std) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    expected = scipy.stats.t.interval(0.95, df=3, loc=mean, scale=scipy.stats.sem(values))
    assert interval == pytest.approx(expected, rel=1e-9)
    narrow = summarize(values, confidence=0.5).interval
    assert interval[0] < narrow[0] < mean < narrow[1] < interval[1]
    for few in ([], [0.98]):
        with pytest.raises(ValueError, match="two or more values"):
            summarize(few)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), such as 0\.95, got 95\.0"):
        summarize(values, confidence=95.0)


def test_interval_holds_the_mean_in_95_percent_of_samples():
    samples = np.random.default_rng(0).normal(3, 2, (2000, 5))
    held = [low < 3 < high for low, high in (summarize(sample).interval for sample in samples)]
    assert 0.935 < np.mean(held) < 0.965


@pytest.mark.slow
def test_ensemble_of_ten_classes_is_better_than_its_members(mnist):
    part = Splits(*(part[:2000] for part in mnist))
    model = mlp((784, 32, 10))
    learner = Learner(model, softmax_cross_entropy, optax.adam(2e-3), batch_size=64)
    states, history = fit_many(seeds(*range(4)), learner, part, epochs=2)
    together = float((ensemble_labels(model, states.params, part.valid) == part.valid.labels).mean())
    assert together > history.accuracy[:, -1].mean() + 0.01
    metrics = evaluate_many(model, softmax_cross_entropy, states.params, part.valid)
    np.testing.assert_allclose(metrics.accuracy, history.accuracy[:, -1], rtol=1e-6)


@pytest.mark.slow
def test_accuracies_of_members_are_distributed_as_those_of_single_fits(sample):
    learner = Learner(mlp((784, 30, 1)), mnist_loss, SGD.optimizer)
    _, many = fit_many(seeds(*range(64)), learner, sample, epochs=20, same_order=True)
    single = [fit(jax.random.key(seed), learner, sample, epochs=20)[1].accuracy[-1] for seed in range(100, 116)]
    assert scipy.stats.ks_2samp(many.accuracy[:, -1], single).pvalue > 0.01
    assert abs(many.accuracy[:, -1].mean() - np.mean(single)) < 5e-4
