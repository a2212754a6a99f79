"""The configuration as users meet it: overrides, messages, JSON, presets, variants."""

import dataclasses
import json

import pytest

from maskmill.schemas.errors import UsageError
from maskmill.schemas.options import keys_of, to_mapping
from maskmill.training.config import Config, DataConfig, LossConfig, ModelConfig
from maskmill.training.config_io import differences, digest, from_dict, override, to_json
from maskmill.training.optim import learning_rate, run_length
from maskmill.training.presets import PRESETS, apply_variant


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = PRESETS[name].config
    assert from_dict(json.loads(to_json(config))) == config
    assert PRESETS[name].source


def test_every_key_can_be_set_to_its_own_value():
    tree = to_mapping(Config())
    for key in keys_of(Config):
        value = tree
        for part in key.split("."):
            value = value[part]
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        assert override(Config(), [f"{key}={text}"]) == Config(), key


def test_overrides_take_the_types_of_their_fields():
    config = override(
        Config(),
        [
            "optim.lr=1",
            "optim.weight_decay=1e-6",
            "data.layers=fh-500, grid-5",
            "data.aspect=[0.5,2]",
            "data.flip=FALSE",
            "augment.view2.blur_prob=0.5",
            "batch_size=256",
        ],
    )
    assert config.optim.lr == 1.0
    assert isinstance(config.optim.lr, float)
    assert config.optim.weight_decay == 1e-6
    assert config.data.layers == ("fh-500", "grid-5")
    assert config.data.aspect == (0.5, 2.0)
    assert config.data.flip is False
    assert config.augment.view2.blur_prob == 0.5
    assert config.batch_size == 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr", r"--set takes key=value, got 'optim.lr'"),
        ("lr=0.1", r"unknown key 'lr'; did you mean 'optim.lr'\?"),
        ("optim.learning_rate=1", r"unknown key 'optim.learning_rate'"),
        ("batchsize=4", r"unknown key 'batchsize'; did you mean 'batch_size'\?"),
        ("data=3", r"unknown key 'data'"),
        ("batch_size=2.5", r"batch_size takes a whole number, got 2.5"),
        ("batch_size=True", r"batch_size takes a whole number, got True"),
        ("optim.lr=fast", r"optim.lr takes a number, got 'fast'"),
        ("optim.lr=__import__('os')", r"optim.lr takes a number"),
        ("data.flip=1", r"data.flip takes true or false, got '1'"),
        ("data.aspect=1", r"data.aspect takes 2 values"),
        ("data.pool=sofd", r"data.pool must be one of soft, argmax, point, got 'sofd'; did you mean 'soft'\?"),
        ("data.image_size=100", r"multiple of 32, got 100"),
        ("data.cell=12", r"data.cell must be one of \(8, 16, 32\), got 12"),
        ("model.stride=64", r"model.stride must be one of \(8, 16, 32\), got 64"),
        ("model.stride=8", r"data.cell=32 and model.stride=8 must be the same number"),
        ("loss.temperature=0", r"loss.temperature must be positive, got 0.0"),
        ("loss.negative_groups=3", r"loss.negative_groups=3 must divide batch_size=4096"),
        ("data.image_size=513", r"data.image_size must be a positive multiple of 32, got 513"),
        ("data.scale=2,1", r"data.scale must be two rising positive numbers"),
        ("model.classes=0", r"model.classes must be at least 1, got 0"),
        ("frozen=true", r"frozen=true leaves algorithm=detcon_b nothing to train"),
        ("algorithm=simclr", r"algorithm=simclr pools one global mask; set data.global_mask=true"),
        ("optim.drop_at=0.98,0.96", r"optim.drop_at must rise"),
    ],
)
def test_wrong_overrides_say_what_is_right(text, message):
    with pytest.raises(UsageError, match=message):
        override(Config(), [text])


def test_values_that_need_one_another_may_come_in_any_order():
    for order in (["algorithm=simclr", "data.global_mask=true"], ["data.global_mask=true", "algorithm=simclr"]):
        assert override(Config(), order).algorithm == "simclr"


def test_construction_checks_too():
    with pytest.raises(UsageError, match="must be one of paper, release, regression"):
        LossConfig(form="papr")
    with pytest.raises(UsageError, match="views must be 1 or 2"):
        DataConfig(views=3)
    with pytest.raises(UsageError, match="width must be at least 1"):
        ModelConfig(width=0)


def test_unknown_keys_in_json_are_refused():
    with pytest.raises(UsageError, match=r"unknown key 'optim.lrr'; did you mean 'optim.lr'"):
        from_dict({"optim": {"lrr": 1}})
    with pytest.raises(UsageError, match="optim must be a mapping"):
        from_dict({"optim": 3})


def test_variant_sets_its_points_and_each_can_be_set_alone():
    config = PRESETS["detcon_b_in1k_300"].config
    release = apply_variant(config, "release")
    changed = {line.split(":")[0] for line in differences(to_mapping(config), to_mapping(release))}
    assert changed == {
        "variant", "data.pool", "data.crop", "loss.form", "model.target_init",
        "optim.lr", "optim.weight_decay", "optim.warmup_epochs", "optim.ema_base",
    }  # fmt: skip
    assert (release.optim.lr, release.optim.warmup_epochs, release.optim.ema_base) == (0.2, 3.0, 0.996)
    assert apply_variant(release, "paper") == config
    single = override(config, ["variant=release", "data.pool=soft"])
    assert single == dataclasses.replace(release, data=dataclasses.replace(release.data, pool="soft"))


def test_digest_ignores_how_often_a_run_logs():
    assert digest(override(Config(), ["log.log_every=7"])) == digest(Config())
    assert digest(override(Config(), ["seed=7"])) != digest(Config())


def test_presets_cover_every_row_and_column_of_the_papers_analyses():
    """Tables 4 and 5 and Figures 7 and 8: each differs from its base in what its row says, and in nothing else."""
    fh, gt = "detcon_s_coco_1296", "detcon_s_coco_gt"
    point = {"data.pool: soft -> point"}
    local = {"loss.negative_groups: 1 -> 128"}
    rows = {
        ("simclr_coco_1296", "simclr_coco_16_latents"): {"data.masks_per_view: 1 -> 16"},
        (fh, "detcon_s_coco_1_latent"): {"data.masks_per_view: 16 -> 1"},
        (fh, "detcon_s_coco_fh"): set(),
        (fh, gt): {"data.layers: ['fh-500', 'fh-1000', 'fh-1500'] -> ['gt']"},
        (gt, "detcon_s_coco_mcg"): {"data.layers: ['gt'] -> ['mcg-16']"},
        ("simclr_coco_1296", "simclr_coco_384"): {"data.image_size: 224 -> 384"},
        ("simclr_coco_1296", "simclr_coco_512"): {"data.image_size: 224 -> 512"},
    }
    rows |= {(gt, f"detcon_s_coco_grid_{n}"): {f"data.layers: ['gt'] -> ['grid-{n}']"} for n in (2, 5, 10)}
    for base in ("detcon_s_coco_fh", gt):
        for size in (384, 512):
            rows[base, f"{base}_{size}"] = point | {f"data.image_size: 224 -> {size}"}
        rows[base, f"{base}_local"] = local
        rows[base, f"{base}_one_view"] = local | point | {"data.views: 2 -> 1"}
    for (base, name), changes in rows.items():
        found = set(differences(to_mapping(PRESETS[base].config), to_mapping(PRESETS[name].config)))
        assert found == changes, name


def test_presets_cover_the_papers_schedules():
    assert {f"{a}_in1k_{e}" for a in ("detcon_s", "simclr") for e in (100, 200, 500, 1000)} <= PRESETS.keys()
    assert {f"{a}_in1k_{e}" for a in ("detcon_b", "byol") for e in (300, 1000)} <= PRESETS.keys()
    assert {f"{a}_coco_{e}" for a in ("detcon_s", "simclr") for e in (324, 648, 1296, 2592, 5184)} <= PRESETS.keys()
    assert {"detcon_b_coco", "smoke_cpu", "detcon_b_in1k_1000_resnet200x2"} <= PRESETS.keys()
    for name, preset in PRESETS.items():
        if name != "smoke_cpu" and not preset.config.has_labels:
            assert preset.config.batch_size == 4096
            assert preset.config.loss.temperature == 0.1


def test_presets_of_transfer_are_the_papers():
    """A.1, A.3, "Transfer to PASCAL": 45 epochs of 10,582 pictures in 16s, .02 dropped at 70 and 90 %, decay 1e-4."""
    voc = PRESETS["fcn_voc"].config
    total, warmup = run_length(voc, 10_582)
    assert (total, warmup, voc.data.image_size, voc.data.scale) == (29_761, 0, 513, (0.5, 2.0))
    rate = learning_rate(voc.optim, voc.batch_size, total, warmup)
    for step, expected in ((0, 0.02), (20_831, 0.02), (20_833, 0.002), (26_783, 0.002), (26_785, 0.0002)):
        assert float(rate(step)) == pytest.approx(expected), step
    assert (voc.optim.weight_decay, voc.optim.momentum, voc.optim.trust) == (1e-4, 0.9, 0)
    for name in ("fcn_voc", "fcn_cityscapes"):
        both = (to_mapping(PRESETS[n].config) for n in (name, f"{name}_frozen"))
        assert differences(*both) == ["frozen: False -> True"]
    city = PRESETS["fcn_cityscapes"].config
    assert (run_length(city, 2_975)[0], city.model.classes, city.data.image_size) == (90_000, 19, 769)
    linear = PRESETS["linear_in1k"].config
    assert (linear.frozen, linear.optim.weight_decay, linear.epochs, linear.batch_size) == (True, 0, 80, 1024)
    assert {f"supervised_in1k_{e}" for e in (100, 200, 500, 1000)} <= PRESETS.keys()
