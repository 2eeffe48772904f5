"""Every optimizer of optax and optax.contrib: it trains the chapter's net, or is refused with optax's reason."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow
from optax import contrib

from jax_mnist import Layer, Learner, Splits, evaluate, fit, init_state, mlp, mnist_loss
from jax_mnist.training import set_learning_rate

MODEL = mlp((784, 30, 1))

# Each with a learning rate at which three epochs of a quarter of the images suffice.
TRAIN = {
    "acprop": lambda: contrib.acprop(2e-4),
    "adabelief": lambda: optax.adabelief(1e-3),
    "adadelta": lambda: optax.adadelta(10.0),
    "adafactor": lambda: optax.adafactor(1e-2),
    "adagrad": lambda: optax.adagrad(1e-2),
    "adam": lambda: optax.adam(1e-3),
    "adamax": lambda: optax.adamax(1e-3),
    "adamaxw": lambda: optax.adamaxw(1e-3),
    "adamw": lambda: optax.adamw(1e-3),
    "adan": lambda: optax.adan(1e-3),
    "ademamix": lambda: contrib.ademamix(1e-3),
    "adopt": lambda: contrib.adopt(1e-3),
    "amsgrad": lambda: optax.amsgrad(1e-3),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
    "cocob": lambda: contrib.cocob(1.0),
    "dadapt_adamw": lambda: contrib.dadapt_adamw(1.0),
    "dog": lambda: contrib.dog(1.0, ("distance", 0.1)),
    "dowg": lambda: contrib.dowg(1.0),
    "fromage": lambda: optax.fromage(1e-2),
    "galore": lambda: contrib.galore(1e-3),
    "lamb": lambda: optax.lamb(1e-2),
    "lars": lambda: optax.lars(1.0),
    "lbfgs": lambda: optax.lbfgs(),
    "lbfgs in chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.lbfgs()),
    "lbfgs in MultiSteps": lambda: optax.MultiSteps(optax.lbfgs(), 2),
    "lion": lambda: optax.lion(3e-4),
    "madgrad": lambda: contrib.madgrad(1e-3),
    "mechanize": lambda: contrib.mechanize(optax.adam(1.0)),
    "momo": lambda: contrib.momo(1.0),
    "momo_adam": lambda: contrib.momo_adam(1e-3),
    "muon": lambda: contrib.muon(2e-2),
    "nadam": lambda: optax.nadam(1e-3),
    "nadamw": lambda: optax.nadamw(1e-3),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "novograd": lambda: optax.novograd(1e-3),
    "optimistic_adam": lambda: optax.optimistic_adam(1e-3),
    "optimistic_adam_v2": lambda: optax.optimistic_adam_v2(1e-3),
    "optimistic_gradient_descent": lambda: optax.optimistic_gradient_descent(0.1),
    "polyak_sgd": lambda: optax.polyak_sgd(max_learning_rate=0.5),
    "prodigy": lambda: contrib.prodigy(1.0),
    "radam": lambda: optax.radam(3e-3),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau()),
    "rmsprop": lambda: optax.rmsprop(1e-3),
    "rprop": lambda: optax.rprop(1e-3),
    "sam": lambda: contrib.sam(optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.05))),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(0.5), 0.5),
    "schedule_free_adamw": lambda: contrib.schedule_free_adamw(1e-3),
    "schedule_free_sgd": lambda: contrib.schedule_free_sgd(0.5),
    "sgd": lambda: optax.sgd(0.1),
    "sgd with backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    "sgd with momentum": lambda: optax.sgd(0.01, momentum=0.9, nesterov=True),
    "sgd with zoom": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "sign_sgd": lambda: optax.sign_sgd(1e-3),
    "signum": lambda: optax.signum(1e-3),
    "simplified_ademamix": lambda: contrib.simplified_ademamix(1e-3),
    "sm3": lambda: optax.sm3(0.1),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(1e-3)),
    "yogi": lambda: optax.yogi(1e-3),
}

# Each with the call that fails and a part of the reason.
REFUSED = {
    "dpsgd": (lambda: contrib.dpsgd(0.1, 1.0, 1.0, 0), "gradient of a batch.*dpsgd"),
    "lbfgs in multi_transform": (
        lambda: optax.multi_transform({"a": optax.lbfgs(), "b": optax.sgd(0.1)}, (Layer("a", "a"), Layer("b", "b"))),
        "update failed.*(MaskedNode|named tuple)",
    ),
    "lookahead": (lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5), "update failed.*fast"),
    "sam with opaque_mode": (
        lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05), opaque_mode=True),
        "update failed.*grad_fn",
    ),
    "sophia": (lambda: contrib.sophia(1e-3), "update failed.*obj_fn"),
}

# Functions of a learning rate that are parts of optimizers.
PARTS = {"scale_by_learning_rate", "scale_by_rprop", "scale_by_madgrad"}


def test_the_tables_name_every_optimizer_of_optax():
    found = {
        name
        for module in (optax, contrib)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "learning_rate"
    }
    assert {name for name in found if not name.startswith("_")} - PARTS <= {*TRAIN, *REFUSED}


def built(make):
    """Return the optimizer; optax warns that some of them are deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make()


@pytest.fixture(scope="module")
def quarter(sample):
    """A quarter of the images in a random order, so that epochs need not shuffle, which takes longer to compile."""
    order = np.random.default_rng(0).permutation(len(sample.train))[::4]
    return Splits(sample.train[order], sample.valid[::2])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN)
def test_optimizer_trains(name, quarter):
    learner = Learner(MODEL, mnist_loss, built(TRAIN[name]), shuffle=False)
    state = init_state(jax.random.key(0), learner)
    start = evaluate(learner, state.params, quarter.valid).accuracy
    assert start < 0.6
    _, history = fit(None, learner, quarter, epochs=3, state=state)
    assert history.accuracy[-1] > 0.9


@pytest.mark.parametrize("name", [slow("adam"), "polyak_sgd"])
def test_common_optimizers_learn_two_classes(name, tiny):
    learner = Learner(mlp((784, 16, 1)), mnist_loss, TRAIN[name](), batch_size=8)
    _, history = fit(jax.random.key(0), learner, tiny, epochs=8)
    assert history.accuracy[-1] == 1
    assert history.valid_loss[-1] < history.valid_loss[0]


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_optimizer_is_refused_with_the_reason(name, tiny):
    make, reason = REFUSED[name]
    learner = Learner(MODEL, mnist_loss, built(make), batch_size=8)
    with pytest.raises(ValueError, match=f"(?s){reason}"):
        fit(jax.random.key(0), learner, tiny, epochs=1)


def test_optimizer_that_changes_its_state_is_refused(tiny):
    def init(params):
        return jnp.zeros(())

    def update(updates, state, params=None):
        return updates, jnp.zeros(2)

    learner = Learner(MODEL, mnist_loss, optax.GradientTransformation(init, update), batch_size=8)
    with pytest.raises(ValueError, match=r"update failed.*float32 \[\].*float32 \[2\]"):
        fit(jax.random.key(0), learner, tiny, epochs=1)


def test_update_gets_only_the_arguments_it_accepts(tiny):
    seen = {}

    def update(updates, state, params=None, *, value=None):
        seen["value"] = value
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    learner, plain = (Learner(MODEL, mnist_loss, choice, batch_size=8) for choice in (optimizer, optax.sgd(0.1)))
    ours, theirs = (fit(jax.random.key(0), which, tiny, epochs=2)[1] for which in (learner, plain))
    assert seen["value"] is not None
    np.testing.assert_allclose(ours.valid_loss, theirs.valid_loss, rtol=1e-6)


def test_learning_rate_is_found_by_type_and_set():
    optimizer = optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
    params = {"learning_rate": jnp.ones(2), "hyperparams": jnp.ones(3)}
    state = set_learning_rate(optimizer.init(params), 0.5)
    assert state[1].hyperparams["learning_rate"] == 0.5
    np.testing.assert_array_equal(state[1].inner_state[0].mu["learning_rate"], 0)
    for other in (optax.adam(0.1), optax.chain(optimizer, optimizer)):
        with pytest.raises(ValueError, match=r"optax\.inject_hyperparams\(make\)\(learning_rate=0\.1\)"):
            set_learning_rate(other.init(params), 0.5)
    scheduled = optax.inject_hyperparams(optax.adam)(learning_rate=optax.cosine_decay_schedule(0.1, 10))
    with pytest.raises(ValueError, match="schedule"):
        set_learning_rate(scheduled.init(params), 0.5)
