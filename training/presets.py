"""The paper's runs by name, each with where its numbers come from."""

import dataclasses
import typing

from training.config import Config, Variant, check_choice


def apply_variant(config: Config, variant: Variant) -> Config:
    """Sets together the points where the paper and the authors' released code differ; each can then be set alone.

    Pooling, crop, loss form, target initialisation, and for networks with a target also learning rate, weight decay,
    warm-up and the target's decay, which the release keeps the same for every length of training.
    """
    check_choice(variant, typing.get_args(Variant), "variant")
    if variant == config.variant:
        return config
    release = variant == "release"
    optim = config.optim
    if config.has_target:
        rate = _byol_rates(config.epochs)
        if release:
            rate = {"lr": 0.2, "weight_decay": 1.5e-6, "ema_base": 0.996, "warmup_epochs": float(config.epochs // 100)}
        optim = dataclasses.replace(optim, **rate)
    form = config.loss.form if config.loss.form == "regression" else variant
    return dataclasses.replace(
        config,
        variant=variant,
        data=dataclasses.replace(
            config.data, pool="argmax" if release else "soft", crop="clip" if release else "reject"
        ),
        loss=dataclasses.replace(config.loss, form=form),
        model=dataclasses.replace(config.model, target_init="independent" if release else "copy"),
        optim=optim,
    )


def _byol_rates(epochs: float) -> dict[str, float]:
    """A.2 and A.3: 0.2, 1.5e-6 and 0.996 for 1000 epochs; 0.3, 1e-6 and 0.99 for 300, and here for anything shorter."""
    if epochs >= 1000:
        return {"lr": 0.2, "weight_decay": 1.5e-6, "ema_base": 0.996, "warmup_epochs": 10.0}
    return {"lr": 0.3, "weight_decay": 1e-6, "ema_base": 0.99, "warmup_epochs": 10.0}
