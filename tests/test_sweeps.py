import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jax_mnist import (
    Dataset,
    History,
    Model,
    Splits,
    TrainState,
    accuracy,
    ensemble_labels,
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
    spread,
)
from jax_mnist.training.sweeps import Members, _chunks, evaluate_many, init_many, train_many

MODEL = mlp((784, 16, 1))
SGD = optax.sgd(0.1)  # one object, so that the tests share compilations
MOMENTUM = optax.sgd(0.1, momentum=0.9)


def seeds(*numbers):
    return jax.vmap(jax.random.key)(jnp.array(numbers))


@pytest.fixture
def options():
    return {"epochs": 3, "loss_fn": mnist_loss, "batch_size": 8}  # 30 images: the last batch is short


def member(stacked, i):
    return jax.tree.map(lambda leaf: leaf[i], stacked)


def assert_member_is(one, stacked, history, i):
    """Member i of many equals a fit: its whole state, and its record but for the seconds."""
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


@pytest.mark.parametrize(("model", "optimizer"), [
    (linear(), optax.sgd(0.1)), (MODEL, MOMENTUM), (flax_mlp((784, 16, 1)), optax.adam(1e-2)),
], ids=["linear_sgd", "mlp_momentum", "flax_mlp_adam"])  # fmt: skip
def test_each_seed_is_the_fit_of_that_seed(tiny, options, model, optimizer):
    many = fit_many(seeds(0, 5, 9), model, tiny, optimizer=optimizer, **options)
    for i, seed in enumerate((0, 5, 9)):
        assert_member_is(fit(jax.random.key(seed), model, tiny, optimizer=optimizer, **options), *many, i)


@pytest.mark.slow
def test_without_shuffling_too(tiny, options):
    many = fit_many(seeds(0, 1), MODEL, tiny, optimizer=SGD, shuffle=False, **options)
    one = fit(jax.random.key(1), MODEL, tiny, optimizer=SGD, shuffle=False, **options)
    assert_member_is(one, *many, 1)


@pytest.mark.slow
def test_in_the_same_order_each_is_the_fit_in_the_order_of_the_first(tiny, options):
    optimizer = SGD
    many = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=optimizer, same_order=True, **options)
    order = np.asarray(jax.random.key_data(init_state(jax.random.key(0), MODEL, optimizer).key))
    for seed in range(3):
        state = init_state(jax.random.key(seed), MODEL, optimizer)
        state = state._replace(key=jax.random.wrap_key_data(jnp.array(order)))
        one = fit(jax.random.key(9), MODEL, tiny, optimizer=optimizer, state=state, **options)
        assert_member_is(one, *many, seed)
    own, _ = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=optimizer, **options)
    differs = jnp.abs(own.params[0].weights - many[0].params[0].weights).max(axis=(1, 2)) > 1e-4
    assert differs.tolist() == [False, True, True]


@pytest.mark.slow
def test_each_learning_rate_is_the_fit_at_that_rate(tiny, options, x64):
    """In float64, since Adam divides small gradients by themselves and so makes much of their rounding."""
    rates = [0.01, 0.1]
    many = fit_many(jax.random.key(3), MODEL, tiny, optimizer=optax.adam, learning_rates=rates, **options)
    for i, rate in enumerate(rates):
        one = fit(jax.random.key(3), MODEL, tiny, optimizer=optax.adam(rate), **options)
        assert_member_is(one, *many, i)
        np.testing.assert_allclose(many[0].params[0].weights[i], one[0].params[0].weights, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_seeds_and_learning_rates_together(tiny, options):
    pairs = [(0, 0.01), (1, 0.1), (1, 0.01)]
    numbers, rates = zip(*pairs, strict=True)
    many = fit_many(seeds(*numbers), MODEL, tiny, optimizer=optax.sgd, learning_rates=np.array(rates), **options)
    for i, (seed, rate) in enumerate(pairs):
        assert_member_is(fit(jax.random.key(seed), MODEL, tiny, optimizer=optax.sgd(rate), **options), *many, i)


@pytest.mark.slow
@pytest.mark.parametrize("same_order", [False, True])
def test_the_chunk_changes_nothing_but_the_memory(tiny, options, same_order):
    optimizer = SGD

    def run(chunk):
        return fit_many(seeds(*range(5)), MODEL, tiny, optimizer=optimizer, chunk=chunk, same_order=same_order,
                        **options)  # fmt: skip

    whole, history = run(5)
    for chunk in (3, 100):
        states, records = run(chunk)
        np.testing.assert_array_equal(jax.random.key_data(states.key), jax.random.key_data(whole.key))
        for a, b in zip(jax.tree.leaves(states.params), jax.tree.leaves(whole.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(records.valid_loss, history.valid_loss, rtol=1e-5)


@pytest.mark.parametrize(("count", "chunk", "shape"), [
    (64, 64, (1, 64)), (65, 64, (2, 33)), (100, 64, (2, 50)), (7, 3, (3, 3)), (3, 100, (1, 3)), (4, 1, (4, 1)),
])  # fmt: skip
def test_chunks_are_even(count, chunk, shape):
    places = _chunks(count, chunk)
    assert places.shape == shape
    assert places.ravel()[:count].tolist() == list(range(count))
    assert (places.ravel()[count:] == count - 1).all()
    assert places.size - count < len(places)


@pytest.mark.slow
def test_all_chunks_share_one_trace(tiny, options):
    shapes = []

    def counting(params, x):
        shapes.append(x.shape)
        return linear().apply(params, x)

    fit_many(seeds(*range(5)), Model(linear().init, counting), tiny, optimizer=SGD, chunk=2, **options)
    # Of three chunks. The other shapes are the looks at what fits, one for each part of the splits at most.
    assert shapes[-2:] == [(8, 784), (1024, 784)]
    assert shapes.count((1024, 784)) == 1
    assert shapes.count((8, 784)) <= 3


def temporary_bytes(splits, count, same_order):
    """What an epoch of so many members needs beside what goes in and comes out."""
    optimizer = SGD
    order = {"model": MODEL, "optimizer": optimizer, "same_order": same_order}
    states = init_many(Members(seeds(*range(count)), None), jax.random.key(0), **order)
    compiled = train_many.lower(states, None, splits.train, loss_fn=mnist_loss, batch_size=8, shuffle=True, **order)
    return compiled.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_is_the_chunks_and_one_order_needs_one_batch(tiny, options, monkeypatch):
    sizes = []

    class Watched:
        def __getattr__(self, name):
            return getattr(train_many, name)

        def __call__(self, states, *arguments, **named):
            sizes.append({leaf.shape[0] for leaf in jax.tree.leaves(states)})
            return train_many(states, *arguments, **named)

    monkeypatch.setattr("jax_mnist.training.sweeps.train_many", Watched())
    fit_many(seeds(*range(9)), MODEL, tiny, optimizer=SGD, chunk=4, **options)
    assert sizes == [{3}] * 9  # three chunks of three, not 4, 4 and 1; three epochs each
    batch = 8 * 784 * 4
    own, shared = (temporary_bytes(tiny, 16, same_order) for same_order in (False, True))
    assert own > 16 * batch
    assert own - shared > 8 * batch


def test_shapes_and_seconds(tiny, options):
    states, history = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=MOMENTUM, chunk=3, **options)
    assert isinstance(states, TrainState)
    assert isinstance(history, History)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(states)} == {3}
    assert states.params[0].weights.shape == states.opt_state[0].trace[0].weights.shape == (3, 784, 16)
    assert states.epoch.tolist() == [3, 3, 3]
    assert {column.shape for column in history} == {(3, 3)}
    assert (history.seconds > 0).all()
    assert (history.evaluation_seconds > 0).all()
    for i in range(3):
        metrics = evaluate(MODEL, member(states.params, i), tiny.valid, mnist_loss)
        assert history.accuracy[i, -1] == metrics.accuracy
        assert history.valid_loss[i, -1] == pytest.approx(float(metrics.loss), rel=1e-5)


@pytest.mark.slow
def test_no_epochs_give_the_start(tiny, options):
    states, history = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=SGD, **options | {"epochs": 0})
    assert history.accuracy.shape == (3, 0)
    start = init_state(jax.random.key(1), MODEL, SGD).params
    np.testing.assert_allclose(states.params[0].weights[1], start[0].weights, rtol=1e-6)


@pytest.mark.slow
def test_a_member_goes_on_where_it_stopped(tiny, options):
    half, _ = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=SGD, **options | {"epochs": 1})
    state = member(half, 1)
    whole = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=SGD, **options)
    rest, _ = fit(jax.random.key(9), MODEL, tiny, optimizer=SGD, state=state, **options)
    np.testing.assert_allclose(rest.params[0].weights, whole[0].params[0].weights[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_under_strict_promotion_and_in_float64(tiny, options, x64, strict):
    states, _ = fit_many(jax.random.key(0), MODEL, tiny, optimizer=optax.sgd, learning_rates=[0.1, 0.2], **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(states.params)} == {jnp.dtype("float64")}


def test_fit_many_deletes_no_array_of_its_callers(tiny, options):
    on_device = jax.device_put(tiny)
    keys = seeds(0, 1, 2)
    fit_many(keys, MODEL, on_device, optimizer=SGD, **options)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((keys, on_device)))


WRONG = {
    r"keys must be one or more of jax.random.key, \[k\] or \[\], not key<fry> \[0\]": {"keys": []},
    r"not uint32 \[2\]": {"keys": "old"},
    r"chunk must be 1 or more, not 0": {"chunk": 0},
    r"batch_size must be 1 or more, not -1": {"batch_size": -1},
    r"optimizer must be a function of the rate, such as optax.sgd": {"learning_rates": [0.1, 0.2]},
    r"without, an optimizer": {"optimizer": optax.sgd},
    r"learning_rates must be \[k\], one a key, not \[3\] for keys \[2\]": {
        "learning_rates": [0.1, 0.2, 0.3],
        "optimizer": optax.sgd,
    },
    r"learning_rates must be \[k\], one a key, not \[0\]": {"learning_rates": [], "optimizer": optax.sgd},
    r"labels 0\.\.2 do not fit a model with 1 column": {"labels": [0, 1, 2]},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_one_clear_error(tiny, options, message):
    arguments = {"model": MODEL, "optimizer": optax.sgd(0.1), "keys": [0, 1]} | options | WRONG[message]
    keys = arguments.pop("keys")
    keys = jax.random.PRNGKey(0) if keys == "old" else seeds(*keys) if keys else seeds(0)[:0]
    if "labels" in arguments:
        labels = np.resize(np.array(arguments.pop("labels"), np.int32), 30)
        tiny = Splits(Dataset(tiny.train.images, labels), tiny.valid)
    with pytest.raises(ValueError, match=message):
        fit_many(keys, arguments.pop("model"), tiny, **arguments)


def known(columns):
    """A model whose logits are its parameters, whatever it sees: [b, c] for parameters [c]."""
    return Model(lambda key: jnp.zeros(columns), lambda params, x: jnp.broadcast_to(params, (len(x), columns)))


def test_a_vote_is_the_mean_of_probabilities(tiny):
    """Two members lean to 0 and one is sure of 1: a majority says 0, the mean says 1."""
    logits = jnp.log(jnp.array([0.4 / 0.6, 0.4 / 0.6, 0.99 / 0.01]))[:, None]
    labels = ensemble_labels(known(1), logits, tiny.valid)
    assert (labels.dtype, labels.tolist()) == (jnp.int32, [1] * 10)
    assert ensemble_labels(known(1), logits[:2], tiny.valid).tolist() == [0] * 10
    three = jnp.log(jnp.array([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.01, 0.01, 0.98]]))
    assert ensemble_labels(known(3), three, tiny.valid, batch_size=3).tolist() == [2] * 10
    assert ensemble_labels(known(3), three[:2], tiny.valid, batch_size=10).tolist() == [0] * 10


@pytest.mark.slow
def test_a_vote_of_one_is_its_own_and_of_many_the_mean_by_hand(tiny, options):
    states, _ = fit_many(seeds(0, 1, 2), MODEL, tiny, optimizer=SGD, **options | {"epochs": 1})
    batch = make_batch(tiny.valid.images, tiny.valid.labels)
    for i in range(3):
        alone = ensemble_labels(MODEL, member(states.params, slice(i, i + 1)), tiny.valid, batch_size=4)
        logits = MODEL.apply(member(states.params, i), batch.x)
        assert float((alone == batch.y).mean()) == pytest.approx(float(accuracy(logits, batch.y)))
    logits = np.stack([MODEL.apply(member(states.params, i), batch.x)[:, 0] for i in range(3)])
    expected = (1 / (1 + np.exp(-logits))).mean(axis=0) > 0.5
    assert ensemble_labels(MODEL, states.params, tiny.valid).tolist() == expected.astype(int).tolist()
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        ensemble_labels(MODEL, states.params, tiny.valid, batch_size=0)


def test_the_interval_is_students():
    values = [0.981, 0.984, 0.979, 0.983]
    mean, std, interval = spread(values)
    assert (mean, std) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    expected = scipy.stats.t.interval(0.95, df=3, loc=mean, scale=scipy.stats.sem(values))
    assert interval == pytest.approx(expected, rel=1e-9)
    narrow = spread(values, confidence=0.5).interval
    assert interval[0] < narrow[0] < mean < narrow[1] < interval[1]
    for few in ([], [0.98]):
        with pytest.raises(ValueError, match="two or more values"):
            spread(few)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3, 2, (2000, 5))
    held = [low < 3 < high for low, high in (spread(sample).interval for sample in samples)]
    assert 0.935 < np.mean(held) < 0.965


@pytest.mark.slow
def test_ten_classes_vote_better_than_their_mean(mnist):
    part = Splits(*(part[:2000] for part in mnist))
    model = mlp((784, 32, 10))
    states, history = fit_many(seeds(*range(4)), model, part, epochs=2, loss_fn=softmax_cross_entropy,
                               optimizer=optax.adam(2e-3), batch_size=64)  # fmt: skip
    together = float((ensemble_labels(model, states.params, part.valid) == part.valid.labels).mean())
    assert together > history.accuracy[:, -1].mean() + 0.01
    metrics = evaluate_many(states.params, part.valid, model=model, loss_fn=softmax_cross_entropy)
    np.testing.assert_allclose(metrics.accuracy, history.accuracy[:, -1], rtol=1e-6)


@pytest.mark.slow
def test_the_chapters_nets_at_once_are_distributed_as_one_by_one(sample):
    model = mlp((784, 30, 1))
    options = {"epochs": 40, "loss_fn": mnist_loss, "optimizer": optax.sgd(0.1)}
    _, many = fit_many(seeds(*range(64)), model, sample, same_order=True, **options)
    single = [fit(jax.random.key(seed), model, sample, **options)[1].accuracy[-1] for seed in range(100, 132)]
    assert scipy.stats.ks_2samp(many.accuracy[:, -1], single).pvalue > 0.01
    assert abs(many.accuracy[:, -1].mean() - np.mean(single)) < 5e-4
