"""The training loop: steps, epochs, whole runs, evaluation, and what is refused."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counting_compilations
from marks import slow

from jax_mnist import (
    Dataset,
    Learner,
    Model,
    Splits,
    accuracy,
    batches,
    cnn,
    evaluate,
    evaluation_params,
    fit,
    fit_epochs,
    flax_mlp,
    from_flax,
    init_state,
    linear,
    make_batch,
    mlp,
    mnist_loss,
    random_shift,
    save_params,
    softmax_cross_entropy,
    train_epoch,
    train_step,
    update,
    with_ema,
)
from jax_mnist.analysis import ensemble_labels, predict_logits
from jax_mnist.models import mixed_precision
from jax_mnist.models.flax import Mlp
from jax_mnist.training.evaluation import evaluate_params

LEARNER = Learner(mlp((784, 16, 1)), mnist_loss, optax.sgd(0.1), batch_size=8)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def to_flax(layers):
    return {"layers": {i: {"kernel": w, "bias": b} for i, (w, b) in enumerate(layers)}}


def test_from_scratch_optax_and_flax_agree_after_an_epoch(sample, x64):
    train = sample.train[::4]
    learner = Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1))
    state = init_state(jax.random.key(0), learner)

    by_hand = state.params
    for batch in batches(train, 256, state.key):
        by_hand = update(by_hand, batch, 0.1)

    by_optax, _ = train_epoch(learner, state, train)
    flax_learner = learner._replace(model=flax_mlp((784, 30, 1)))
    by_flax, _ = train_epoch(flax_learner, state._replace(params=to_flax(state.params)), train)
    assert jnp.abs(by_hand[0].weights - state.params[0].weights).max() > 1e-3
    for other in (by_optax.params, by_flax.params):
        flat = to_flax(other) if isinstance(other, tuple) else other
        for a, b in zip(*map(jax.tree.leaves, (to_flax(by_hand), flat)), strict=True):
            assert a.dtype == b.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_epoch_is_a_loop_of_steps(tiny):
    state = init_state(jax.random.key(0), LEARNER)
    scanned, epoch_loss = train_epoch(LEARNER, state, tiny.train)
    step = train_step(LEARNER)
    total = 0.0
    looped = state
    for batch in batches(tiny.train, 8, state.key):
        looped, loss = step(looped, batch)
        total += float(loss) * int(batch.mask.sum())
    assert float(epoch_loss) == pytest.approx(total / 30, rel=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (scanned.params, looped.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unroll", [2, 3, 8])  # 8 batches of 4, of which the last is half full
def test_unrolled_steps_are_the_same_steps(tiny, unroll):
    learner = Learner(mlp((784, 8, 1)), mnist_loss, optax.sgd(0.1, momentum=0.9), batch_size=4)
    state = init_state(jax.random.key(0), learner)
    expected, loss = train_epoch(learner, state, tiny.train)
    found, unrolled_loss = train_epoch(learner._replace(unroll=unroll), state, tiny.train)
    np.testing.assert_allclose(unrolled_loss, loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_epoch_loss_is_the_mean_over_images(tiny):
    """At rate 0 the parameters stay, so it is the loss over the dataset, although the last batch is short."""
    learner = LEARNER._replace(model=linear(), optimizer=optax.sgd(0.0))
    state = init_state(jax.random.key(0), learner)
    _, loss = train_epoch(learner, state, tiny.train)
    assert float(loss) == pytest.approx(float(evaluate(learner, state.params, tiny.train).loss), rel=1e-6)


def test_step_augments_by_its_key(tiny):
    learner = LEARNER._replace(augment=random_shift)
    state, batch = init_state(jax.random.key(0), learner), next(batches(tiny.train, 30))
    step = train_step(learner)
    losses = [float(step(state, batch, jax.random.key(seed))[1]) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert float(train_step(LEARNER)(state, batch)[1]) not in losses
    with pytest.raises(ValueError, match="key"):
        step(state, batch)


def test_same_key_gives_the_same_bits(tiny):
    runs = [fit(jax.random.key(seed), LEARNER, tiny, epochs=3)[0] for seed in (0, 0, 1)]
    assert_same_bits(runs[0], runs[1])
    assert (runs[0].params[0].weights != runs[2].params[0].weights).all()


def test_continued_run_is_the_unbroken_run(tiny):
    unbroken, history = fit(jax.random.key(0), LEARNER, tiny, epochs=4)
    half, first = fit(jax.random.key(0), LEARNER, tiny, epochs=2)
    for key in (None, jax.random.key(9)):
        whole, second = fit(key, LEARNER, tiny, epochs=4, state=half)
        assert_same_bits(whole, unbroken)
    assert [*first.epoch, *second.epoch] == history.epoch.tolist() == [1, 2, 3, 4]
    assert [*first.valid_loss, *second.valid_loss] == history.valid_loss.tolist()


def test_epochs_is_the_total(tiny):
    state, _ = fit(jax.random.key(0), LEARNER, tiny, epochs=2)
    assert list(fit_epochs(None, LEARNER, tiny, epochs=2, state=state)) == []
    for epochs in (1, 2):
        with pytest.raises(ValueError, match=rf"epochs must be above 2, .* got {epochs}$"):
            fit(None, LEARNER, tiny, epochs=epochs, state=state)
    with pytest.raises(ValueError, match=r"epochs must be 2 or more, .* got 1$"):
        fit_epochs(None, LEARNER, tiny, epochs=1, state=state)  # at the call, not at the first next
    with pytest.raises(ValueError, match="key"):
        fit(None, LEARNER, tiny, epochs=1)


def test_fit_deletes_no_array_of_its_caller(tiny):
    state = init_state(jax.random.key(0), LEARNER)
    on_device = jax.device_put(tiny)
    fit(jax.random.key(1), LEARNER, on_device, epochs=2, state=state)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state, on_device)))


def test_fit_epochs_can_be_stopped_by_break(tiny):
    seen = []
    for state, record in fit_epochs(jax.random.key(0), LEARNER, tiny, epochs=50):
        seen.append((int(state.epoch), record.epoch))
        if record.epoch == 2:
            break
    assert seen == [(1, 1), (2, 2)]


def test_records_hold_the_metrics_of_evaluate(tiny):
    for state, record in fit_epochs(jax.random.key(0), LEARNER, tiny, epochs=2):
        metrics = evaluate(LEARNER, state.params, tiny.valid)
        assert (record.valid_loss, record.accuracy) == (float(metrics.loss), float(metrics.accuracy))
        assert record.seconds > 0
        assert record.evaluation_seconds > 0


def test_an_epoch_is_traced_once(tiny):
    shapes = []
    inner = mlp((784, 16, 1))

    def counting(params, x):
        shapes.append(x.shape)
        return inner.apply(params, x)

    # 30 images in batches of 8: the last one is short. And 10 images to evaluate.
    run = fit_epochs(jax.random.key(0), LEARNER._replace(model=Model(inner.init, counting)), tiny, epochs=3)
    checked = len(shapes)
    next(run)
    assert set(shapes[checked:]) <= {(8, 784), (1024, 784)}
    assert shapes.count((1024, 784)) == 1
    traced = len(shapes)
    assert len(list(run)) == 2
    assert len(shapes) == traced


CONSTRUCTORS = {
    "mlp": [lambda: mlp((784, 9, 1)), lambda: mlp([784, 9, 1]), lambda: mlp(sizes=(784, 9, 1), std=None)],
    "linear": [linear, lambda: linear(784, 1), lambda: linear(outputs=1, inputs=784), lambda: mlp([784, 1])],
    "std": [lambda: mlp((784, 9, 1), 1.0), lambda: mlp([784, 9, 1], std=1.0)],
    "flax_mlp": [lambda: flax_mlp((784, 9, 1)), lambda: flax_mlp([784, 9, 1]), lambda: flax_mlp(sizes=(784, 9, 1))],
    "cnn": [
        lambda: cnn((2, 2), classes=1),
        lambda: cnn([2, 2], [5, 4], strides=[1, 2], pools=[2, 1], hidden=[], classes=1),
        lambda: cnn(filters=(2, 2), kernels=(5, 4), hidden=(), classes=1, image_shape=[28, 28, 1], padding="VALID"),
    ],
    "from_flax": [lambda: from_flax(SMALL), lambda: from_flax(make=SMALL, input_shape=None)],
    "mixed_precision": [
        lambda: mixed_precision(mlp((784, 9, 1))),
        lambda: mixed_precision(mlp([784, 9, 1]), "bfloat16"),
        lambda: mixed_precision(model=mlp((784, 9, 1)), dtype=jnp.bfloat16),
    ],
}
SMALL = functools.partial(Mlp, (784, 9, 1))


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_equal_models_compile_once(name, tiny):
    first, *others = [make() for make in CONSTRUCTORS[name]]
    shapes = jax.eval_shape(first.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    learner = LEARNER._replace(model=first)
    with counting_compilations() as compiled:
        evaluate(learner, params, tiny.valid)  # compiles faster than an epoch
    assert compiled
    for other in others:
        assert other == first
        assert hash(other) == hash(first)
        with counting_compilations() as compiled:
            evaluate(learner._replace(model=other), params, tiny.valid)
        assert compiled == []


def test_fit_with_an_equal_model_compiles_nothing(tiny):
    fit(jax.random.key(0), LEARNER, tiny, epochs=1)
    with counting_compilations() as compiled:
        fit(jax.random.key(0), LEARNER._replace(model=mlp(sizes=[784, 16, 1], std=None)), tiny, epochs=1)
    assert compiled == []


def test_evaluation_compiles_once_for_two_optimizers(tiny):
    model, params = Model(lambda key: (), lambda params, x: x[:, :1]), ()  # new, so that nothing was compiled for it
    compiled = []
    for optimizer, shuffle in ((optax.sgd(0.1), True), (optax.adam(0.1), False)):
        with counting_compilations() as programs:
            evaluate(Learner(model, mnist_loss, optimizer, 7, shuffle), params, tiny.valid)
        compiled.append(len(programs))
    assert compiled[0] > 0
    assert compiled[1] == 0


def test_train_step_compiles_once(tiny):
    learner = LEARNER._replace(loss_fn=lambda logits, labels: mnist_loss(logits, labels))
    state, batch = init_state(jax.random.key(0), learner), next(batches(tiny.train, 8))
    with counting_compilations() as compiled:
        train_step(learner)(state, batch)
    assert compiled
    with counting_compilations() as compiled:
        train_step(learner)(state, batch)
        train_step(Learner(*learner))(state, batch)
        train_step(learner._replace(batch_size=4, shuffle=False))(state, batch)  # a step depends on neither
    assert compiled == []


def test_parameters_are_initialized_by_one_program():
    learner = LEARNER._replace(model=mlp((5, 1)))
    key = jax.random.key(0)
    with counting_compilations() as compiled:
        init_state(key, learner)
    assert len(compiled) == 1


def test_train_epoch_lowers_ahead_of_time(tiny):
    state = init_state(jax.random.key(0), LEARNER)
    compiled = train_epoch.lower(LEARNER, state, tiny.train).compile()
    assert_same_bits(compiled(state, tiny.train), train_epoch(LEARNER, state, tiny.train))


@pytest.mark.parametrize("batch_size", [7, 64, *map(slow, (1, 10))])
def test_evaluate_counts_every_image_once(tiny, batch_size):
    params = LEARNER.model.init(jax.random.key(3))
    metrics = evaluate(LEARNER, params, tiny.valid, batch_size=batch_size)
    assert int(metrics.count) == 10

    @jax.jit
    def expected(x, y):
        logits = LEARNER.model.apply(params, x)
        return accuracy(logits, y), mnist_loss(logits, y).mean()

    right, loss = expected(tiny.valid.images.reshape(10, -1) / np.float32(255), tiny.valid.labels)
    assert float(metrics.accuracy) == pytest.approx(float(right), abs=1e-7)
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-5)


def test_padding_does_not_count():
    """The last batch is padded with image 0, the only one that is wrong: it must not count twice."""
    model = Model(lambda key: None, lambda params, x: 1000 * (x.mean(axis=1, keepdims=True) - 0.5))
    labels = np.array([0, *([1] * 9)], np.int32)
    images = np.full((10, 28, 28), 255, np.uint8)
    metrics = evaluate(LEARNER._replace(model=model), None, Dataset(images, labels), batch_size=8)
    assert float(metrics.accuracy) == pytest.approx(0.9)
    assert float(metrics.loss) == pytest.approx(0.1)


def test_ten_classes(mnist):
    part = Splits(*(part[:2000] for part in mnist))
    learner = Learner(linear(784, 10), softmax_cross_entropy, optax.adam(2e-3), batch_size=64)
    _, history = fit(jax.random.key(0), learner, part, epochs=5)
    assert history.accuracy[-1] > 0.8


def test_vmapped_epochs_are_the_single_ones(tiny):
    """Sweeps rely on it: everything is a function of the state."""

    def states():
        return [init_state(jax.random.key(seed), LEARNER) for seed in range(3)]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states())
    many, losses = jax.vmap(lambda state: train_epoch(LEARNER, state, tiny.train))(stacked)
    metrics = jax.vmap(lambda params: evaluate_params(LEARNER.model, mnist_loss, params, tiny.valid)[0])(many.params)
    for i, state in enumerate(states()):
        one, loss = train_epoch(LEARNER, state, tiny.train)
        np.testing.assert_allclose(losses[i], loss, rtol=1e-5)
        np.testing.assert_allclose(many.params[0].weights[i], one.params[0].weights, atol=1e-5)
        assert metrics.accuracy[i] == evaluate(LEARNER, one.params, tiny.valid).accuracy


def relabeled(splits, labels):
    return Splits(Dataset(splits.train.images, np.resize(np.array(labels, np.int32), 30)), splits.valid)


# A pattern of the message: what the learner or the labels are replaced by.
WRONG = {
    r"labels .*0\.\.1 .* 1 column.*0\.\.2": {"labels": [0, 1, 2]},
    r"labels .*-1\.\.1": {"labels": [-1, 1]},
    r"labels .* 3 column.*0\.\.3": {
        "labels": [0, 3],
        "model": linear(784, 3),
        "loss_fn": softmax_cross_entropy,
    },
    "batch_size .* 0": {"batch_size": 0},
    r"loss_fn .*\[8\].*\[\]": {"loss_fn": lambda logits, y: mnist_loss(logits, y).mean()},
    r"x .*float \[b, 100\]": {"model": linear(100)},
    r"x of shape \[8, 784\]": {"model": flax_mlp((100, 1))},
    r"logits \[b, c\].*\[8\]": {"model": Model(linear().init, lambda p, x: x[:, 0])},
    "logits .*tuple": {"model": Model(linear().init, lambda p, x: (x, x))},
    "column.* of logits": {"loss_fn": softmax_cross_entropy},
}


@pytest.mark.parametrize("message", WRONG)
def test_misfits_are_refused_before_training(tiny, message):
    changes = {"model": linear(), **WRONG[message]}
    splits = relabeled(tiny, changes.pop("labels")) if "labels" in changes else tiny
    with pytest.raises(ValueError, match=message):
        fit_epochs(jax.random.key(0), LEARNER._replace(**changes), splits, epochs=1)


def test_images_without_labels_are_refused(tiny):
    short = Dataset(tiny.train.images[:20], tiny.train.labels)
    learner = LEARNER._replace(model=linear())
    with pytest.raises(ValueError, match=r"label .*\[20, 28, 28\].*\[30\]"):
        fit(jax.random.key(0), learner, Splits(short, tiny.valid), epochs=1)
    with pytest.raises(ValueError, match=r"label .*\[20, 28, 28\].*\[30\]"):
        evaluate(learner, linear().init(jax.random.key(0)), short)
    with pytest.raises(ValueError, match=r"labels .*\[20\].*\[30\]"):
        make_batch(short.images, short.labels)


def test_dataset_without_labels_is_not_trained_on(tiny):
    with pytest.raises(ValueError, match="must have labels, got only images"):
        fit(jax.random.key(0), LEARNER, Splits(Dataset(tiny.train.images), tiny.valid), epochs=1)
    with pytest.raises(ValueError, match="must have labels, got only images"):
        evaluate(LEARNER, LEARNER.model.init(jax.random.key(0)), Dataset(tiny.train.images))


def test_equinox_module_trains_after_its_arrays_are_separated(tiny, tmp_path):
    module = eqx.nn.MLP(784, 1, 8, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"only arrays, got relu at activation; .*eqx\.partition"):
        init_state(jax.random.key(0), LEARNER._replace(model=Model(lambda key: module, lambda params, x: x)))
    with pytest.raises(ValueError, match=r"only arrays, got relu at activation; .*eqx\.partition"):
        evaluate(LEARNER, module, tiny.valid)
    with pytest.raises(ValueError, match=r"only arrays, got relu at activation; .*eqx\.partition"):
        save_params(tmp_path / "model.safetensors", module)
    params, static = eqx.partition(module, eqx.is_array)
    learner = LEARNER._replace(model=Model(lambda key: params, lambda p, x: jax.vmap(eqx.combine(p, static))(x)))
    _, history = fit(jax.random.key(0), learner, tiny, epochs=3)
    assert history.train_loss[-1] < history.train_loss[0]


def test_training_starts_from_given_parameters(tiny):
    optimizer = with_ema(optax.adam(1e-3), 0.9)
    trained, _ = fit(jax.random.key(0), LEARNER, tiny, epochs=1)
    model = LEARNER.model._replace(init=lambda key: trained.params)
    state = init_state(jax.random.key(1), LEARNER._replace(model=model, optimizer=optimizer))
    assert_same_bits(state.params, trained.params)
    assert_same_bits(evaluation_params(state), trained.params)
    assert int(state.epoch) == 0


def test_float_pixels_in_0_to_255_are_refused(tiny):
    floats = Splits(*(Dataset(part.images.astype(np.float32), part.labels) for part in tiny))
    for function in (fit, evaluate):
        arguments = (jax.random.key(0), LEARNER, floats) if function is fit else (LEARNER, None, floats.valid)
        with pytest.raises(ValueError, match=r"pixels must be uint8 .* got float32 up to 25\d; divide them by 255"):
            function(*arguments, **({"epochs": 1} if function is fit else {}))
    with pytest.raises(ValueError, match="divide them by 255"):
        next(batches(floats.train, 8))
    params = LEARNER.model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="divide them by 255"):
        predict_logits(LEARNER.model, params, floats.valid)
    with pytest.raises(ValueError, match="divide them by 255"):
        ensemble_labels(LEARNER.model, jax.tree.map(lambda leaf: leaf[None], params), floats.valid)
    scaled = Splits(*(Dataset(part.images / np.float32(255), part.labels) for part in tiny))
    assert fit(jax.random.key(0), LEARNER, scaled, epochs=1)[1].accuracy.shape == (1,)


def test_an_empty_dataset_is_refused(tiny):
    empty = Dataset(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int32))
    with pytest.raises(ValueError, match="0 images"):
        fit(jax.random.key(0), LEARNER, Splits(tiny.train, empty), epochs=1)
    with pytest.raises(ValueError, match="0 images"):
        evaluate(LEARNER, LEARNER.model.init(jax.random.key(0)), empty)


def test_training_runs_under_strict_promotion(tiny, strict):
    _, history = fit(jax.random.key(0), LEARNER, tiny, epochs=2)
    assert np.isfinite(history.valid_loss).all()


def test_float64_stays_float64(tiny, x64, strict):
    state, _ = fit(jax.random.key(0), LEARNER._replace(model=flax_mlp((784, 16, 1))), tiny, epochs=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float64")}
