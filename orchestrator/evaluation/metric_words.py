"""What metrics are called where people read them."""

_GROUPS = {"all": "all targets", "named": "targets that captions name", "unnamed": "targets that no caption names"}
_RANKS = ("mean_rank", "median_rank")


def is_score(name: str) -> bool:
    """Whether a metric is the score of an evaluation, rather than an end of its interval or something else."""
    return name.startswith(("eval/", "eval_ema/")) and name.count("/") == 4


def is_share(name: str) -> bool:
    """Whether a score lies between 0 and 1; ranks do not."""
    return name.rpartition("/")[2] not in _RANKS


def describe_metric(name: str) -> str:
    """Such as ``linear probe, shape: accuracy``; the set is left out (see ``set_of``)."""
    _, _, probe, target, score = name.split("/")
    kind, _, feature = probe.partition(".")
    words = kind.replace("_", " ") + (f" ({feature.replace('_', ' ')})" if feature else "")
    return f"{words}, {_GROUPS.get(target, target.replace('_', ' '))}: {score.replace('_', ' ')}"


def set_of(name: str) -> str:
    """The evaluation set of a metric."""
    return name.split("/")[1]


def format_score(name: str, value: float) -> str:
    """A share in percent, a rank as it is."""
    return f"{100 * value:.1f} %" if is_share(name) else f"{value:.1f}"


def format_difference(name: str, value: float) -> str:
    """Without its unit, see ``unit_of_difference``."""
    return f"{100 * value if is_share(name) else value:.1f}".replace("-", "−")


def unit_of_difference(name: str) -> str:
    """What a difference of two scores is counted in."""
    return "points" if is_share(name) else "ranks"
