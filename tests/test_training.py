import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import (
    Dataset,
    Model,
    Splits,
    accuracy,
    batches,
    epochs,
    evaluate,
    evaluate_epoch,
    fit,
    flax_mlp,
    init_state,
    linear,
    make_batch,
    mlp,
    mnist_loss,
    softmax_cross_entropy,
    train_epoch,
    train_step,
    update,
)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def to_flax(layers):
    return {"layers": {i: {"kernel": w, "bias": b} for i, (w, b) in enumerate(layers)}}


@pytest.fixture
def options():
    return {"loss_fn": mnist_loss, "optimizer": optax.sgd(0.1), "batch_size": 8}


def test_by_hand_by_optax_and_by_flax_are_the_same_after_an_epoch(sample, x64):
    train = sample.train[::4]
    optimizer = optax.sgd(0.1)
    model = mlp((784, 30, 1))
    state = init_state(jax.random.key(0), model, optimizer)

    by_hand = state.params
    for batch in batches(train, 256, state.key):
        by_hand = update(by_hand, batch, 0.1)

    shared = {"loss_fn": mnist_loss, "optimizer": optimizer}
    by_optax, _ = train_epoch(state, train, model=model, **shared)
    by_flax, _ = train_epoch(
        state._replace(params=to_flax(state.params)), train, model=flax_mlp((784, 30, 1)), **shared
    )
    assert jnp.abs(by_hand[0].weights - state.params[0].weights).max() > 1e-3
    for other in (by_optax.params, by_flax.params):
        flat = to_flax(other) if isinstance(other, tuple) else other
        for a, b in zip(*map(jax.tree.leaves, (to_flax(by_hand), flat)), strict=True):
            assert a.dtype == b.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_an_epoch_is_a_loop_of_steps(tiny, options):
    model, optimizer = mlp((784, 16, 1)), options["optimizer"]
    state = init_state(jax.random.key(0), model, optimizer)
    scanned, epoch_loss = train_epoch(state, tiny.train, model=model, **options)
    step = train_step(model, mnist_loss, optimizer)
    total = 0.0
    looped = state
    for batch in batches(tiny.train, 8, state.key):
        looped, loss = step(looped, batch)
        total += float(loss) * int(batch.mask.sum())
    assert float(epoch_loss) == pytest.approx(total / 30, rel=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (scanned.params, looped.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_epochs_loss_is_the_mean_over_images(tiny):
    """With a rate of 0 nothing moves, so it is the loss over the dataset, though the last batch is short."""
    model, optimizer = linear(), optax.sgd(0.0)
    state = init_state(jax.random.key(0), model, optimizer)
    _, loss = train_epoch(state, tiny.train, model=model, loss_fn=mnist_loss, optimizer=optimizer, batch_size=8)
    assert float(loss) == pytest.approx(float(evaluate(model, state.params, tiny.train, mnist_loss).loss), rel=1e-6)


def test_same_key_same_bits_other_key_other_bits(tiny, options):
    model = mlp((784, 16, 1))
    runs = [fit(jax.random.key(seed), model, tiny, epochs=3, **options)[0] for seed in (0, 0, 1)]
    assert_same_bits(runs[0], runs[1])
    assert (runs[0].params[0].weights != runs[2].params[0].weights).all()


def test_going_on_from_a_state_is_the_unbroken_run(tiny, options):
    model = mlp((784, 16, 1))
    unbroken, history = fit(jax.random.key(0), model, tiny, epochs=4, **options)
    half, first = fit(jax.random.key(0), model, tiny, epochs=2, **options)
    whole, second = fit(jax.random.key(9), model, tiny, epochs=4, state=half, **options)
    assert_same_bits(whole, unbroken)
    assert [*first.epoch, *second.epoch] == history.epoch.tolist() == [1, 2, 3, 4]
    assert [*first.valid_loss, *second.valid_loss] == history.valid_loss.tolist()
    done, none = fit(jax.random.key(9), model, tiny, epochs=4, state=whole, **options)
    assert_same_bits(done, whole)
    assert none.accuracy.shape == (0,)


def test_fit_deletes_no_array_of_its_callers(tiny, options):
    model = mlp((784, 16, 1))
    state = init_state(jax.random.key(0), model, options["optimizer"])
    on_device = jax.device_put(tiny)
    fit(jax.random.key(1), model, on_device, epochs=2, state=state, **options)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state, on_device)))


def test_a_plain_for_can_stop(tiny, options):
    seen = []
    for state, row in epochs(jax.random.key(0), linear(), tiny, count=50, **options):
        seen.append((int(state.epoch), row.epoch))
        if row.epoch == 2:
            break
    assert seen == [(1, 1), (2, 2)]


def test_rows_hold_what_evaluate_says(tiny, options):
    model = mlp((784, 16, 1))
    for state, row in epochs(jax.random.key(0), model, tiny, count=2, **options):
        metrics = evaluate(model, state.params, tiny.valid, mnist_loss)
        assert (row.valid_loss, row.accuracy) == (float(metrics.loss), float(metrics.accuracy))
        assert row.seconds > 0
        assert row.evaluation_seconds > 0


def test_an_epoch_is_traced_once_whatever_its_number(tiny):
    shapes = []
    inner = mlp((784, 16, 1))

    def counting(params, x):
        shapes.append(x.shape)
        return inner.apply(params, x)

    # 30 images in batches of 8: the last one is short. And 10 to validate.
    run = epochs(jax.random.key(0), Model(inner.init, counting), tiny, count=3, loss_fn=mnist_loss,
                 optimizer=optax.sgd(0.1), batch_size=8)  # fmt: skip
    shapes.clear()  # of the abstract look at what fits
    next(run)
    assert shapes == [(8, 784), (1024, 784)]
    assert len(list(run)) == 2
    assert shapes == [(8, 784), (1024, 784)]


@pytest.mark.parametrize("batch_size", [1, 7, 10, 64])
def test_evaluate_counts_every_image_once(tiny, batch_size):
    model = mlp((784, 16, 1))
    params = model.init(jax.random.key(3))
    valid = make_batch(tiny.valid.images, tiny.valid.labels)
    logits = model.apply(params, valid.x)
    metrics = evaluate(model, params, tiny.valid, mnist_loss, batch_size)
    assert int(metrics.count) == 10
    assert float(metrics.accuracy) == pytest.approx(float(accuracy(logits, valid.y)), abs=1e-7)
    assert float(metrics.loss) == pytest.approx(float(mnist_loss(logits, valid.y).mean()), rel=1e-5)


def test_padding_does_not_count_however_wrong(tiny):
    """Place 0 fills the last batch up: it must not count twice."""
    model = Model(lambda key: None, lambda params, x: 1000 * (x.mean(axis=1, keepdims=True) - 0.5))
    labels = np.array([0, *([1] * 9)], np.int32)
    images = np.full((10, 28, 28), 255, np.uint8)
    metrics = evaluate(model, None, Dataset(images, labels), mnist_loss, batch_size=8)
    assert float(metrics.accuracy) == pytest.approx(0.9)
    assert float(metrics.loss) == pytest.approx(0.1)


@pytest.mark.parametrize("optimizer", [optax.adam(1e-2), optax.sgd(0.1, momentum=0.9, nesterov=True), optax.lion(1e-3)])
def test_any_optax_optimizer(tiny, optimizer):
    _, history = fit(jax.random.key(0), mlp((784, 16, 1)), tiny, epochs=8, loss_fn=mnist_loss, optimizer=optimizer,
                     batch_size=8)  # fmt: skip
    assert history.accuracy[-1] == 1
    assert history.valid_loss[-1] < history.valid_loss[0]


def test_ten_classes(mnist):
    part = Splits(*(part[:2000] for part in mnist))
    _, history = fit(jax.random.key(0), mlp((784, 32, 10)), part, epochs=5, loss_fn=softmax_cross_entropy,
                     optimizer=optax.adam(2e-3), batch_size=64)  # fmt: skip
    assert history.accuracy[-1] > 0.8


def test_epochs_of_many_keys_at_once_are_the_single_ones(tiny, options):
    """What sweeps are made of: everything is a function of the state."""
    model, optimizer = mlp((784, 16, 1)), options["optimizer"]

    def states():
        return [init_state(jax.random.key(seed), model, optimizer) for seed in range(3)]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states())
    many, losses = jax.vmap(lambda state: train_epoch(state, tiny.train, model=model, **options))(stacked)
    metrics = jax.vmap(lambda p: evaluate_epoch(p, tiny.valid, model=model, loss_fn=mnist_loss))(many.params)
    for i, state in enumerate(states()):
        one, loss = train_epoch(state, tiny.train, model=model, **options)
        np.testing.assert_allclose(losses[i], loss, rtol=1e-5)
        np.testing.assert_allclose(many.params[0].weights[i], one.params[0].weights, atol=1e-5)
        assert metrics.accuracy[i] == evaluate(model, one.params, tiny.valid, mnist_loss).accuracy


def changed(splits, labels):
    return Splits(Dataset(splits.train.images, np.resize(np.array(labels, np.int32), 30)), splits.valid)


WRONG = {
    r"labels 0\.\.2 do not fit a model with 1 column\(s\) of logits, which tells 2 classes apart": {
        "labels": [0, 1, 2]
    },
    r"labels -1\.\.1 do not fit": {"labels": [-1, 1]},
    r"labels 0\.\.3 do not fit a model with 3 column": {
        "labels": [0, 3],
        "model": linear(784, 3),
        "loss_fn": softmax_cross_entropy,
    },
    "batch_size must be 1 or more, not 0": {"batch_size": 0},
    r"loss_fn must give one loss per example, \[8\], not \[\]": {"loss_fn": lambda s, y: mnist_loss(s, y).mean()},
    r"x must be float \[b, 100\]": {"model": linear(100)},
    r"the model does not take x of shape \(8, 784\)": {"model": flax_mlp((100, 1))},
    r"the model must give logits \[b, c\]": {"model": Model(linear().init, lambda p, x: x[:, 0])},
    "an array of logits .*, not a tuple": {"model": Model(linear().init, lambda p, x: (x, x))},
    "a column of logits for each class": {"loss_fn": softmax_cross_entropy},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_refused_before_training(tiny, options, message):
    arguments = {"model": linear(), **options, **WRONG[message]}
    splits = changed(tiny, arguments.pop("labels")) if "labels" in arguments else tiny
    with pytest.raises(ValueError, match=message):
        epochs(jax.random.key(0), arguments.pop("model"), splits, count=1, **arguments)


def test_images_without_labels_are_refused(tiny, options):
    short = Dataset(tiny.train.images[:20], tiny.train.labels)
    message = r"a label for each image, \[n\], not images \(20, 28, 28\) and labels \(30,\)"
    with pytest.raises(ValueError, match=message):
        fit(jax.random.key(0), linear(), Splits(short, tiny.valid), epochs=1, **options)
    with pytest.raises(ValueError, match=message):
        evaluate(linear(), linear().init(jax.random.key(0)), short, mnist_loss)
    with pytest.raises(ValueError, match=r"need labels of shape \(20,\), not \(30,\)"):
        make_batch(short.images, short.labels)


def test_an_empty_dataset_is_refused(tiny, options):
    empty = Dataset(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="no images"):
        fit(jax.random.key(0), linear(), Splits(tiny.train, empty), epochs=1, **options)
    with pytest.raises(ValueError, match="no images"):
        evaluate(linear(), linear().init(jax.random.key(0)), empty, mnist_loss)


def test_our_own_code_runs_under_strict_promotion(tiny, strict, options):
    _, history = fit(jax.random.key(0), mlp((784, 16, 1)), tiny, epochs=2, **options)
    assert np.isfinite(history.valid_loss).all()


def test_float64_all_the_way(tiny, x64, strict, options):
    state, _ = fit(jax.random.key(0), flax_mlp((784, 16, 1)), tiny, epochs=1, **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float64")}
